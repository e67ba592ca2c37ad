"""The command `melfront encoder`, in this process and in one of its own."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import melfront
from melfront.encoder import __main__
from tests.conftest import CHECKOUT

# Only what it needs: no network, no settings of the person who runs the tests.
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": str(CHECKOUT),
    "HF_HUB_OFFLINE": "1",
}


def write(path: Path, audio: np.ndarray) -> Path:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(path, audio, melfront.SAMPLE_RATE, subtype="FLOAT")
    return path


def run(*args) -> int:
    return __main__.main([str(arg) for arg in args])


def process(folder: Path, *args, timeout=120) -> tuple[subprocess.CompletedProcess, float]:
    """The command in a process of its own, and the seconds it took.

    On a machine with other things to do, that is the time of the processor where it is less.
    """
    used, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, *args],
        cwd=folder,
        env=ENVIRONMENT | {"HF_HOME": str(folder / "hub")},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return done, min(wall, cpu)
