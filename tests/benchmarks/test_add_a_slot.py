"""A slot consists of two files: once they are added, it appears everywhere without a list."""

import os
import re
import subprocess
import sys

import pytest

from tests.environments import copy_of_the_checkout

SLOT = '''"""conv1d(x, weight, bias, stride)

Mixes three neighbouring steps, with one zero before the first and after the last.

x (B, C, F), weight (S, C, 3), bias (S,) -> (B, S, (F - 1) // stride + 1)
"""

from __future__ import annotations

import numpy as np

from melfront.encoder import ops, oracle

from ..base import Array, Slot
from ..inputs import Case, Dice, sizes


def truth(x: Array, weight: Array, bias: Array, stride: int) -> Array:
    return np.stack([oracle.conv1d(item, weight, bias, stride) for item in x])


def edges(dice: Dice) -> list[Case]:
    b, f, s = sizes(dice)
    x, weight, bias = dice.normal(b, 83, f), dice.normal(s, 83, 3, std=0.06), dice.normal(s)
    return [
        Case("prime size", (x, weight, bias), {"stride": 1}),
        Case("large values", (50 * x, weight, bias), {"stride": 2}),
    ]


SLOT = Slot(
    __name__,
    __doc__,
    reference=ops.conv1d,
    truth=truth,
    flops=lambda x, weight, bias, stride: 4.0 * x.numel() * weight.shape[0] / stride,
    edges=edges,
    axis=-1,
)
'''
TEMPLATE = """from torch import Tensor
from torch.nn import functional


def conv1d(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return functional.conv1d(x, weight, bias, stride=stride, padding=1)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a command in a copy of the project with an added slot `conv1d`."""
    folder = tmp_path_factory.mktemp("with conv1d")
    copy_of_the_checkout(folder)
    slots = folder / "benchmarks" / "kernel" / "slots" / "encoder"
    (slots / "conv1d.py").write_text(SLOT)
    (slots / "templates" / "conv1d.py").write_text(TEMPLATE)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "melfront.benchmarks", "kernel", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            text=True,
            capture_output=True,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout

    run.folder = folder
    return run


def test_new_slot_is_in_help_and_list(run):
    assert "conv1d" in re.findall(r"\w+", run("--help").partition("positional")[2])
    assert "\nconv1d(x, weight, bias, stride)\n    Mixes three neighbouring" in run("--list")


@pytest.mark.slow
def test_template_of_new_slot_is_printed_proved_and_timed(run):
    template = run("--template", "conv1d")
    assert "melfront benchmarks kernel conv1d THIS_FILE.py" in template
    assert template.endswith(TEMPLATE)
    (run.folder / "mine.py").write_text(template)
    options = ["--seconds", "0.1", "--threads", "1", "--depth", "1"]
    report = run("conv1d", "mine.py", *options)
    cases = ("speech ", "speech, batch of 2", "prime size", "large values")
    assert all(f"\n{case}" in report for case in cases), report
    assert "PASS: 5 cases" in report
    assert "\ntime " in report
    assert "in its place (encoder, tiny, 1 blocks)" in report
