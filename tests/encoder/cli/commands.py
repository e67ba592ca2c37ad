"""Run the command `melfront encoder`, in this process or in a new one."""

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

# A minimal environment: no network, no settings of the user who runs the tests.
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
    """Run Python in a new process; also return the seconds: wall time, or CPU time if that is less.

    CPU time is less on a busy machine.
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
