"""A slot is two files: whoever adds them finds it everywhere, with no list to change."""

import os
import subprocess
import sys

import pytest

from tests.benchmarks.test_installed import copy

SLOT = '''"""scores(q, k)

How well each query fits each key, over sqrt(D).

q, k (B, H, T, D) -> (B, H, T, T)
"""

from __future__ import annotations

from encoder import ops, oracle

from ..base import Slot, f64
from ..inputs import HEAD_DIM, Case, Dice


def edges(dice: Dice) -> list[Case]:
    q, k = (dice.normal(3, 5, 53, HEAD_DIM) for _ in range(2))
    return [Case("prime size", (q, k)), Case("large values", (30 * q, k))]


SLOT = Slot(
    __name__,
    __doc__,
    reference=ops.scores,
    truth=lambda q, k: oracle.scores(f64(q), f64(k)),
    flops=lambda q, k: 2.0 * q.numel() * k.shape[-2],
    edges=edges,
    around={"attention": ops.explicit_attention},
)
'''
TEMPLATE = """from torch import Tensor


def scores(q: Tensor, k: Tensor) -> Tensor:
    return (q * q.shape[-1] ** -0.5) @ k.mT
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a command in a copy of the project to which the slot `scores` has been added."""
    folder = tmp_path_factory.mktemp("with scores")
    copy(folder)
    slots = folder / "benchmarks" / "kernel" / "slots" / "encoder"
    (slots / "scores.py").write_text(SLOT)
    (slots / "templates" / "scores.py").write_text(TEMPLATE)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", "kernel", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            text=True,
            capture_output=True,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout

    run.folder = folder
    return run


def test_it_is_in_the_help_and_in_the_list(run):
    assert "scores" in run("--help").partition("positional")[2].partition("options")[0]
    assert "scores(q, k)\n    How well each query fits each key, over sqrt(D).\n" in run("--list")


def test_its_template_is_printed_proved_timed_and_run_in_its_place(run):
    template = run("--template", "scores")
    assert "python -m benchmarks kernel scores THIS_FILE.py" in template
    assert template.endswith(TEMPLATE)
    (run.folder / "mine.py").write_text(template)
    options = ["--seconds", "0.1", "--threads", "1", "--depth", "1"]
    report = run("scores", "mine.py", *options)
    cases = ("speech ", "speech, batch of 2", "prime size", "large values")
    assert all(f"\n{case}" in report for case in cases), report
    assert "PASS: 4 cases" in report
    assert "\ntime " in report
    assert "in its place (encoder, tiny, 1 blocks)" in report
