"""How long a comparison may take: processor time of the whole process, imports and all.

Processor time, because the clock says more of what else the machine does; on one thread, because
a second one waits busily for a first that has to share its core; and in units of what importing
torch or one pass of the encoder takes on the same machine, because the next one has another CPU.
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
    """Seconds of processor time that a command takes, and its result."""
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
    """Seconds of processor time that `melfront parity` takes, and its output."""
    command = [sys.executable, "-m", "melfront.parity", *map(str, arguments)]
    seconds, done = processor_time(command)
    assert done.returncode == status, done.stdout + done.stderr
    return seconds, done.stdout


@pytest.fixture(scope="module")
def importing_torch():
    """Seconds of processor time, on this machine at its present load."""
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
    """A usage error is reported in less time than importing torch takes."""
    assert run(*arguments, status=status)[0] < importing_torch


@pytest.mark.slow
@pytest.mark.parametrize("name", ["symmetric window", "not in the catalogue"])
def test_a_front_end_dump(tmp_path, sample, importing_torch, name):
    known = name != "not in the catalogue"
    convention = mistakes.find(name if known else "no window").convention()
    stages = front_end_dump(sample, convention, n_mels=128, pad_to=30.0)
    if not known:  # then all pairs are tried
        stages = {"features": stages["features"] * np.float32(0.9)}
    np.savez(tmp_path / "mine.npz", **stages)
    seconds, out = run("compare", tmp_path / "mine.npz", status=1)
    print(f"{seconds:.1f} s, {seconds / importing_torch:.1f} times importing torch")
    assert (f"looks like: {name}" in out) == known, out
    assert seconds <= 5 * importing_torch  # it would be 40 times on all frames


def one_pass(model, mel):
    """Seconds of processor time that the encoder takes, on one thread; the least of three."""
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
def test_the_last_hidden_state(tmp_path, sample):
    """A hidden state that fits no entry, so that the encoder runs for every entry.

    Three passes are allowed for each: a second, because some entries take more steps than ours,
    and the front end, the truth in float64 and the imports are to be paid for; and a third for a
    machine whose cores get slower as others compute. The encoder is tiny's first block.
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
