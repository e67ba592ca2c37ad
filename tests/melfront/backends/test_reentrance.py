"""Nested calls of `log_mel` in one thread give the same results as separate calls."""

import signal
import sys
import threading

import numpy as np
import pytest
import torch

import melfront
from melfront.backends import numpy_backend, torch_in_place
from tests.signals import Signal

# The lengths differ, so that neither call can use what the other left in memory.
OUTER = Signal("speech", 60_001, seed=3).array()
INNER = Signal("noise", 30_011, seed=5).array()
AS = {"numpy": np.asarray, "torch": torch.from_numpy}
HOMES = {"numpy": numpy_backend, "torch": torch_in_place}


def features(kind: str, clip: np.ndarray) -> np.ndarray:
    return np.asarray(melfront.log_mel(AS[kind](clip), n_mels=37, pad_to=4.0))


@pytest.fixture
def back():
    """Restore the interpreter hooks that a test sets."""
    profile, handler = sys.getprofile(), signal.getsignal(signal.SIGALRM)
    gradients = torch.is_grad_enabled()
    yield
    # An interrupt on entry to the __exit__ of torch.no_grad leaves gradients disabled.
    torch.set_grad_enabled(gradients)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)
    sys.setprofile(profile)


def at_every_step(kind: str, act) -> np.ndarray:
    """The features of OUTER, with act() called before and after every function call in between."""

    def step(frame, event, arg):
        sys.setprofile(None)  # do not profile act() itself
        try:
            act()
        finally:
            sys.setprofile(step)

    sys.setprofile(step)
    try:
        return features(kind, OUTER)
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("inner", AS)
@pytest.mark.parametrize("outer", AS)
def test_call_from_a_profiler(outer, inner, back):
    expected = features(outer, OUTER), features(inner, INNER)
    results = []
    during = at_every_step(outer, lambda: results.append(features(inner, INNER)))
    assert np.array_equal(during, expected[0])
    assert len(results) > 100
    assert all(np.array_equal(result, expected[1]) for result in results)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer on this system")
@pytest.mark.parametrize("kind", AS)
def test_call_from_a_signal_handler(kind, back):
    expected = features(kind, OUTER), features(kind, INNER)
    results = []

    def handle(number, frame):
        results.append(features(kind, INNER))
        signal.setitimer(signal.ITIMER_REAL, 1e-4)

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 1e-4)
    during = []
    while len(results) < 30:
        during.append(features(kind, OUTER))
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert all(np.array_equal(result, expected[0]) for result in during)
    assert all(np.array_equal(result, expected[1]) for result in results)


@pytest.mark.parametrize("kind", AS)
def test_call_from_del(kind, monkeypatch):
    """An object is deleted while a block of the outer call is half computed."""
    expected = features(kind, OUTER), features(kind, INNER)
    results = []

    class Deleted:
        def __del__(self):
            results.append(features(kind, INNER))

    left = [Deleted()]
    backend = HOMES[kind]
    mel_power = backend.mel_power

    def then_delete(*args):
        mel = mel_power(*args)
        if left:
            left.pop()
        return mel

    monkeypatch.setattr(backend, "mel_power", then_delete)
    assert np.array_equal(features(kind, OUTER), expected[0])
    assert len(results) == 1
    assert np.array_equal(results[0], expected[1])


@pytest.mark.parametrize("kind", AS)
def test_interrupt_at_any_step(kind, back):
    """A KeyboardInterrupt at any step of a call does not affect the next call."""
    expected = features(kind, OUTER)
    steps = []
    at_every_step(kind, lambda: steps.append(None))
    for last in range(0, len(steps), max(1, len(steps) // 40)):
        left = iter(range(last))

        def interrupt(left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            at_every_step(kind, interrupt)
        assert np.array_equal(features(kind, OUTER), expected), last


@pytest.mark.parametrize("kind", AS)
def test_workspace_is_reused(kind):
    """Reusing scratch memory makes the second call faster than the first."""
    from melfront.backends.numpy_backend import workspace_of_this_thread

    addresses = []

    def work():
        for clip in (OUTER, INNER, OUTER):
            features(kind, clip)
            with workspace_of_this_thread() as workspace:
                addresses.append({key: id(value) for key, value in workspace.items()})

    thread = threading.Thread(target=work)  # a new thread has no workspace yet
    thread.start()
    thread.join()
    assert len(addresses) == 3
    assert addresses[0]
    assert addresses[0] == addresses[1] == addresses[2]
