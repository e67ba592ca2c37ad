"""Upper bounds on the CPU time of a comparison: the whole process including imports.

CPU time, because wall time depends on what else the machine does. One thread, because a second
thread spins while the first waits for a core. In units of importing torch or of one pass of the
encoder on the same machine, because CPUs differ.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import melfront
from melfront.encoder import SIZES, WhisperEncoder
from melfront.encoder.checkpoint import save_hf
from melfront.parity import mistakes
from tests.conftest import CHECKOUT
from tests.parity.ports import front_end_dump


def processor_time(command):
    """Seconds of CPU time that a command takes, and its result."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


def run(*arguments, status):
    """Seconds of CPU time that `melfront parity` takes, and its output."""
    command = [sys.executable, "-m", "melfront.parity", *map(str, arguments)]
    seconds, done = processor_time(command)
    assert done.returncode == status, done.stdout + done.stderr
    return seconds, done.stdout


@pytest.fixture(scope="module")
def importing_torch():
    """Seconds of CPU time on this machine at its current load."""
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
def test_help_and_usage_errors_are_immediate(arguments, status, importing_torch):
    """They take less time than importing torch."""
    assert run(*arguments, status=status)[0] < importing_torch


@pytest.mark.slow
@pytest.mark.parametrize("name", ["symmetric window", "not in the catalogue"])
def test_time_for_a_front_end_dump(tmp_path, sample, importing_torch, name):
    known = name != "not in the catalogue"
    convention = mistakes.find(name if known else "no window").convention()
    stages = front_end_dump(sample, convention, n_mels=128, pad_to=30.0)
    if not known:  # so all pairs are tried
        stages = {"features": stages["features"] * np.float32(0.9)}
    np.savez(tmp_path / "mine.npz", **stages)
    seconds, out = run("compare", tmp_path / "mine.npz", status=1)
    print(f"{seconds:.1f} s, {seconds / importing_torch:.1f} times importing torch")
    assert (f"looks like: {name}" in out) == known, out
    assert seconds <= 5 * importing_torch  # on all frames it would be 40 times


def one_pass(model, mel):
    """Seconds of CPU time for one encoder pass on one thread: the minimum of three."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = []
        for _ in range(3):
            start = time.process_time()
            with torch.inference_mode():
                model(mel)
            times.append(time.process_time() - start)
        return min(times)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_time_for_a_last_hidden_state(tmp_path, sample):
    """A hidden state that matches no entry, so the encoder runs once per entry.

    The bound is three passes per entry: a second one covers slower entries, the front end, the
    float64 truth and the imports; a third one covers cores that slow down when others are busy.
    The encoder is the first block of tiny.
    """
    config = replace(SIZES["tiny"], n_audio_layer=1)
    model = WhisperEncoder.from_formula(config)
    save_hf(tmp_path / "model", config, model.state_dict())
    mel = torch.from_numpy(melfront.log_mel(sample, n_mels=80))[None]
    wrong = mistakes.run(mistakes.find("tanh GELU"), model, mel) * 1.01
    np.savez(tmp_path / "mine.npz", last_hidden_state=wrong.numpy())
    one = one_pass(model, mel)
    arguments = ["compare", tmp_path / "mine.npz", "--model", tmp_path / "model"]
    seconds, out = run(*arguments, status=1)
    assert "none of the known mistakes comes near" in out
    entries = len(mistakes.FRONT_END) + len(mistakes.ENCODER)
    print(f"{seconds:.1f} s, {seconds / one:.0f} passes of {one:.2f} s for {entries} entries")
    assert seconds <= 3 * entries * one
