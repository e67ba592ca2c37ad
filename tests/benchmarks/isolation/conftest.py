"""Kernels run isolated and not, and what they are run with."""

import shutil
from pathlib import Path

import pytest

from melfront.benchmarks.kernel import run
from melfront.benchmarks.kernel.outcome import Options
from melfront.benchmarks.kernel.sandbox import process
from melfront.benchmarks.kernel.sandbox.parent import Sandbox

KERNELS = Path(__file__).parents[1] / "kernels"
QUICK = Options(threads=1, seed=7, seconds=0.2, whole=False)


def order(path):
    return {"path": str(path), "slot": "layer_norm", "threads": 1, "device": "cpu", "ours": None}


def copied(name, tmp_path):
    """A kernel in a folder of its own, where it finds and leaves files."""
    return shutil.copy(KERNELS / f"{name}.py", tmp_path)


@pytest.fixture(params=[True, False], ids=["isolated", "not isolated"])
def isolated(request, monkeypatch):
    """Whether kernels are isolated; both are tried where the system can."""
    monkeypatch.setattr(process, "ISOLATE", request.param)
    if request.param:
        with Sandbox(order(KERNELS / "reference.py")) as child:
            if child.not_isolated:
                pytest.skip(child.not_isolated)
    return request.param


@pytest.fixture
def one_case(monkeypatch):
    """Only the first captured case, to keep a run short."""
    chosen = run.chosen_cases
    monkeypatch.setattr(run, "chosen_cases", lambda *given: [next(iter(chosen(*given)))])
