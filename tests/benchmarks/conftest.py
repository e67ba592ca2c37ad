"""What the tests of the kernel harness share."""

import os

import pytest

from melfront.benchmarks.kernel.sandbox.processes import SLEEP

# Idle threads sleep, as in the harness. No effect once NumPy and torch are loaded.
os.environ.update(SLEEP)


@pytest.fixture
def edges_only(monkeypatch):
    """Prove only the small edge cases, and do not time."""
    from melfront.benchmarks.kernel import run

    monkeypatch.setattr(run, "chosen_cases", lambda slot, _o, dice, _i: slot.edges(dice))
    monkeypatch.setattr(run, "compete", lambda *_args: None)
