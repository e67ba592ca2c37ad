"""The encoder with a kernel in it has the guards of the race: kernels that cheat only there."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from melfront.benchmarks.kernel import run
from melfront.benchmarks.kernel.outcome import Options
from melfront.benchmarks.kernel.reasons import Refused
from melfront.benchmarks.kernel.run import judge_file
from melfront.benchmarks.kernel.sandbox import guard
from melfront.benchmarks.kernel.timing import whole
from melfront.benchmarks.kernel.timing.times import REFERENCE
from melfront.benchmarks.kernel.worker.watched import Lookout
from tests.benchmarks.test_dishonest import IN_PLACE, KERNELS
from tests.benchmarks.test_timing import made_up

OPTIONS = Options(threads=1, seed=5, seconds=0.1, depth=1)


@pytest.fixture
def in_place_only(monkeypatch):
    """Prove one small case, and time the kernel in the encoder alone."""
    monkeypatch.setattr(run, "chosen_cases", lambda slot, _o, dice, _i: slot.edges(dice)[:1])
    monkeypatch.setattr(run, "compete", lambda _c, outcome, dice, _s: run.in_place(outcome, dice))


SLOW = ("changes_the_model", "thread_in_the_whole")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in IN_PLACE]
)
def test_kernel_is_refused_for_what_it_does_in_the_encoder(name, in_place_only):
    code, words = IN_PLACE[name]
    outcome = judge_file(str(KERNELS / f"{name}.py"), "layer_norm", OPTIONS)
    assert outcome.code == code, f"{outcome.code}: {outcome.text}"
    assert words in outcome.text
    assert not outcome.good


def test_work_in_the_encoder_is_judged_as_work_in_the_race():
    """By the same function: made-up times of two contestants, and no roof."""
    times = made_up().times
    race = made_up(times={"": times[""], REFERENCE: times[REFERENCE]}, roof=made_up().roof)
    guard.fair(race, REFERENCE, REFERENCE)
    with pytest.raises(Refused, match=r"keeps 1\.30 cores at work"):
        guard.fair(replace(race, most_cores=1.3), REFERENCE, REFERENCE)
    assert whole.guard is guard


class Staying:
    """A process with so many threads."""

    at_first = 1

    def __init__(self, threads):
        self.threads = threads

    def tasks(self):
        return set(range(self.threads))


@pytest.mark.parametrize(
    ("candidate", "proved", "ours", "refused"),
    [(1, 1, 1, False), (2, 1, 1, True), (4, 3, 2, False), (5, 3, 2, True), (2, 0, 1, False)],
)
def test_a_kernel_brings_no_more_threads_than_in_its_proof(candidate, proved, ours, refused):
    with pytest.raises(Refused, match="once it is in the encoder") if refused else nullcontext():
        guard.no_more_threads(Staying(candidate), proved, Staying(ours))


# --- what is replaced between two looks at it -----------------------------------------------------


@pytest.fixture
def lookout():
    made = Lookout(torch, [])
    made.used = [watch for watch in made.names if watch.name in ("linear", "layer_norm", "mT")]
    return made


def runs(lookout, kernel, calls, n):
    """n of our functions, each of which calls the kernel so often."""
    call = lookout.looked_after(kernel, lambda: None)
    for _ in range(n):
        lookout.next_run()
        for i in range(calls):
            call(i == calls - 1)
    return lookout.changes()


def test_nothing_is_found_where_nothing_is_replaced(lookout):
    assert runs(lookout, lambda _last: None, 5, 3) == []


def test_a_function_put_back_at_the_end_of_each_run_is_found(lookout, monkeypatch):
    linear = F.linear

    def kernel(last):
        monkeypatch.setattr(F, "linear", linear if last else lambda *args: linear(*args))

    found = runs(lookout, kernel, 9, 12)  # missed by chance once in 9^11 times
    assert found == ["torch.nn.functional.linear"]


@pytest.mark.parametrize("part", ["__code__", "__defaults__", "__kwdefaults__"])
def test_what_a_function_holds_is_watched(part, monkeypatch):
    other = (lambda *args, **kwargs: None).__code__
    with monkeypatch.context() as patch:
        lookout = Lookout(torch, [])
        value = other if part == "__code__" else (1,) if part == "__defaults__" else {"x": 1}
        patch.setattr(F.layer_norm, part, value)
        assert lookout.changes() == ["torch.nn.functional.layer_norm"]
    assert lookout.changes() == []


def test_what_a_closure_holds_is_watched():
    def outer(held):
        def inner():
            return held

        return inner

    class Ours:
        run = outer(1)

    lookout = Lookout(torch, [Ours])
    Ours.run.__closure__[0].cell_contents = 2
    assert lookout.changes() == ["Ours.run"]


def test_a_method_of_tensors_is_watched(monkeypatch):
    lookout = Lookout(torch, [])
    monkeypatch.setattr(torch.Tensor, "mT", property(lambda self: self), raising=False)
    assert lookout.changes() == ["Tensor.mT"]
