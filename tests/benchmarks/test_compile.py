"""Compiled kernels are timed; only kernels that Triton's interpreter really ran are not."""

import shutil

import pytest

from melfront.benchmarks.kernel import report, run
from melfront.benchmarks.kernel.outcome import Options
from melfront.benchmarks.kernel.run import judge_file
from melfront.benchmarks.kernel.slots.inputs import Dice
from melfront.parity import noise as measure
from tests.benchmarks.test_honest import EXAMPLES


@pytest.fixture
def few_cases(monkeypatch):
    """Only the captured cases and two others, to keep a run short."""

    def few(slot, options, dice, interpreted):
        seen = [case for case in chosen(slot, options, dice, interpreted) if case.seen]
        return [*seen, *slot.edges(dice)[:2]]

    chosen = run.chosen_cases
    monkeypatch.setattr(run, "chosen_cases", few)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile calls g++")
def test_compiled_kernel_is_proved_and_timed(few_cases):
    options = Options(threads=1, seed=3, seconds=0.2, depth=1)
    outcome = judge_file(str(EXAMPLES / "mlp_compile.py"), "mlp", options)
    assert outcome.verdict == measure.PASS, f"{outcome.code}: {outcome.text}"
    assert not outcome.interpreted
    assert len(outcome.races) == 2
    assert len(outcome.whole.times[0]) >= 3
    printed = report.text(outcome)
    assert "Triton" not in printed
    assert " x 1500 x 384 " in printed, "cases are truncated"


def judged(path, text, slot, **changes):
    path.write_text(text)
    options = {"threads": 1, "seed": 3, "seconds": 0.1, "whole": False, **changes}
    return judge_file(str(path), slot, Options(**options))


# The compiler of each takes 4 s, the first time.
COMPILE = """
import pathlib
import time


def compiling():
    if not pathlib.Path("COMPILED").exists():
        time.sleep(4)
        pathlib.Path("COMPILED").touch()


"""
SLOWLY_COMPILED = {
    "torch": """
import torch


def slow(graph, _inputs):
    compiling()
    return graph.forward


@torch.compile(backend=slow)
def layer_norm(x, weight, bias, eps=1e-5):
    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, eps)
""",
    "jax": """
import jax
from layer_norm_jax import rows_normed
from torch.utils import dlpack


@jax.jit
def traced(*args):
    compiling()
    return rows_normed(*args)


def layer_norm(x, weight, bias, eps=1e-5):
    arrays = [jax.dlpack.from_dlpack(t.contiguous()) for t in (x, weight, bias)]
    return dlpack.from_dlpack(traced(*arrays, eps).block_until_ready())
""",
    "numba": """
import numba
import torch
from numba.extending import overload


def nothing(x):
    return x


@overload(nothing)
def typed(x):
    compiling()
    return nothing


@numba.njit
def same(x):
    return nothing(x)


def layer_norm(x, weight, bias, eps=1e-5):
    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, same(eps))
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("library", SLOWLY_COMPILED)
def test_compile_time_does_not_count(library, few_cases, tmp_path):
    """Neither towards the time limit of a call nor in the measured times."""
    pytest.importorskip(library)
    compiled = tmp_path / "compiled"
    text = COMPILE.replace("COMPILED", str(compiled)) + SLOWLY_COMPILED[library]
    shutil.copy(EXAMPLES / "layer_norm_jax.py", tmp_path)
    outcome = judged(tmp_path / "kernel.py", text, "layer_norm", limit=3.0)
    assert outcome.verdict == measure.PASS, f"{outcome.code}: {outcome.text}"
    assert compiled.exists()
    assert max(race.times[""].max() for race in outcome.races.values()) < 4


ZERO_UNCOMPILED = """
import torch


@torch.compile(backend="eager", dynamic=False)
def gelu(x):
    return torch.nn.functional.gelu(x) if torch.compiler.is_compiling() else torch.zeros_like(x)
"""


def test_compiled_code_is_what_is_proved(monkeypatch, tmp_path):
    """By default, torch.compile falls back to eager mode after compiling for eight shapes."""

    def many(slot, _options, _dice, _interpreted):
        return [case for seed in range(8) for case in slot.edges(Dice(seed))]

    monkeypatch.setattr(run, "chosen_cases", many)
    monkeypatch.setattr(run, "compete", lambda *_args: None)
    outcome = judged(tmp_path / "kernel.py", ZERO_UNCOMPILED, "gelu")
    assert len({f.case.shape() for f in outcome.findings}) > 8
    assert outcome.verdict == measure.PASS, f"{outcome.code}: {outcome.text}"


NO_TRITON_ON_A_CPU = """
import torch
import triton
import triton.language as tl


@triton.jit
def add_one(x, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, mask=i < n) + 1, mask=i < n)


def layer_norm(x, weight, bias, eps=1e-5):
    if RUNS or x.is_cuda:
        add_one[(1,)](torch.zeros(4), 4, BLOCK=4)
    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, eps)
"""


@pytest.mark.parametrize("runs", [pytest.param(False, marks=pytest.mark.slow), True])
def test_kernel_that_skips_triton_on_a_cpu_is_timed(runs, few_cases, tmp_path):
    pytest.importorskip("triton")
    text = NO_TRITON_ON_A_CPU.replace("RUNS", str(runs))
    outcome = judged(tmp_path / "kernel.py", text, "layer_norm")
    assert outcome.verdict == measure.PASS, f"{outcome.code}: {outcome.text}"
    assert outcome.interpreted == runs
    assert len(outcome.races) == (0 if runs else 2)
    assert ("by Triton's interpreter" in report.text(outcome)) == runs
