"""How long a comparison may take: processor time of the whole process, imports and all.

Processor time, because the clock says more of what else the machine does. A process with two
threads that takes 60 s by the clock has used at most 120 s.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

import melfront
from parity import mistakes
from parity.truth import load_model
from tests.conftest import CHECKOUT
from tests.parity.ports import front_end_dump


def processor_time(command, threads=2):
    """Seconds of processor time that a command takes, and what came of it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


def run(*arguments, status, threads=2):
    """Seconds of processor time that `python -m parity` takes, and its output."""
    command = [sys.executable, "-m", "parity", *map(str, arguments)]
    seconds, done = processor_time(command, threads)
    assert done.returncode == status, done.stdout + done.stderr
    return seconds, done.stdout


@pytest.fixture(scope="module")
def importing_torch():
    """Seconds of processor time, on this machine and as busy as it is."""
    return min(processor_time([sys.executable, "-c", "import torch"])[0] for _ in range(2))


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["compare", "--help"], 0),
        (["dump", "--help"], 0),
        (["stages"], 0),
        (["nonsense"], 2),
        (["compare"], 2),
        (["compare", "no-such-file.npz"], 2),
        (["compare", "README.md", "--n-mels", "x"], 2),
        (["compare", "README.md", "--plot", "out.gif"], 2),
        (["dump", "-o", "no/such/folder/dump.npz"], 2),
    ],
)
def test_help_and_usage_errors_at_once(arguments, status, importing_torch):
    """In less than importing torch takes, which a usage error need not wait for."""
    assert run(*arguments, status=status)[0] < importing_torch


@pytest.mark.slow
@pytest.mark.parametrize("name", ["symmetric window", "not in the catalogue"])
def test_a_front_end_dump(tmp_path, sample, name):
    known = name != "not in the catalogue"
    convention = mistakes.find(name if known else "no window").convention()
    stages = front_end_dump(sample, convention, n_mels=128, pad_to=30.0)
    if not known:  # all pairs are tried, too
        stages = {"features": stages["features"] * np.float32(0.9)}
    np.savez(tmp_path / "mine.npz", **stages)
    # On one thread: a second has little to do here, and waits busily.
    seconds, out = run("compare", tmp_path / "mine.npz", status=1, threads=1)
    assert (f"looks like: {name}" in out) == known, out
    assert seconds <= 5


@pytest.mark.slow
def test_the_last_hidden_state_of_tiny(tmp_path, sample):
    """One that fits no entry, for which all of both halves of the catalogue are tried."""
    model = load_model("formula:tiny")
    mel = torch.from_numpy(melfront.log_mel(sample, n_mels=80))[None]
    wrong = mistakes.run(mistakes.TANH_GELU, model, mel) * 1.01
    np.savez(tmp_path / "mine.npz", last_hidden_state=wrong.numpy())
    seconds, out = run("compare", tmp_path / "mine.npz", "--model", "formula:tiny", status=1)
    assert "none of the known mistakes comes near" in out
    assert seconds <= 120
