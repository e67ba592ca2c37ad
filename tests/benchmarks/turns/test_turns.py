"""Each contestant has contents of its own, results stay as they were, and no number is too good."""

import random
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from melfront.benchmarks.kernel import report
from melfront.benchmarks.kernel.reasons import Refused
from melfront.benchmarks.kernel.sandbox import guard
from melfront.benchmarks.kernel.sandbox.parent import Call, Sandbox
from melfront.benchmarks.kernel.slots import find
from melfront.benchmarks.kernel.slots.inputs import Case, Dice
from melfront.benchmarks.kernel.timing import fair
from melfront.benchmarks.kernel.timing.fair import Heat
from melfront.benchmarks.kernel.timing.times import ALLOWANCE, REFERENCE, TWIN
from melfront.benchmarks.kernel.timing.whole import Whole
from melfront.benchmarks.kernel.worker import results
from melfront.benchmarks.kernel.worker.memory import shared_mapping, span
from tests.benchmarks.test_dishonest import KERNELS
from tests.benchmarks.test_report import outcome
from tests.benchmarks.test_timing import made_up

# --- turns ----------------------------------------------------------------------------------------


class Contestant:
    """A stand-in for a worker: remembers what it was given, and in what order all were called."""

    device, pid, threads, results = "cpu", 1, 1, []

    def __init__(self, log, name):
        self.log, self.name, self.overtime = log, name, {}
        self.look = False

    def tasks(self):
        return {1}

    def left(self, _tasks):
        return set()

    def use(self, _function):
        pass

    def write(self, *contents):
        (self.given,) = contents

    def call(self):
        # Its values: the memory is written to again.
        self.log.append((self.name, tuple(self.given.args[0].tolist())))
        return Call(1e-3, 0.0, 0.0, True, 1e-3, None)


def test_the_reference_has_a_process_of_its_own():
    """As the kernel has: a process that is called more often in a round is quicker."""
    workers = [Contestant([], name) for name in ("kernel", "reference", "twin", "rivals")]
    runners = fair.lined_up(*workers, find("layer_norm"), Dice(1))
    alone = {child.name: name for name, (child, _) in runners.items() if child is not workers[3]}
    assert alone == {"kernel": "", "reference": REFERENCE, "twin": TWIN}
    assert len(runners) == 5


@pytest.fixture
def heat(monkeypatch):
    """A race of four, with what was given to whom, and what was checked."""
    monkeypatch.setattr(guard, "descendants", lambda _pid: [])
    monkeypatch.setattr(guard, "helpers_time", lambda _pid: 0.0)
    log, checked, kept = [], [], []
    names = ("", REFERENCE, "numpy", TWIN)
    runners = {name: (Contestant(log, name), name) for name in names}

    def right(content, _copy):
        checked.append(content.args[0])
        return 0.5

    monkeypatch.setattr(guard, "kept", lambda child: kept.append(child.given.args[0]))
    made = Heat(runners, right, Case("x", (torch.ones(64),)), Dice(1))
    made.log, made.checked, made.kept = log, checked, kept
    return made


def test_no_rival_is_given_what_the_kernel_is_yet_to_answer(heat):
    heat.run(0, 12, 12, counts=True)
    assert len(heat.log) == 12 * 4
    answered = set()
    for name, given in heat.log:
        if name == "":
            assert given not in answered
            answered.add(given)
    for i, (name, given) in enumerate(heat.log):
        if name == "":
            before = [g for other, g in heat.log[:i] if other]
            assert given not in before
            after = [other for other, g in heat.log[i + 1 :] if g == given]
            assert sorted(after) in ([], sorted([REFERENCE, "numpy", TWIN]))


def test_a_third_of_the_results_is_checked_and_looked_at_again(heat):
    heat.chance = random.Random(2)
    heat.run(0, 60, 60, counts=True)
    assert 10 <= len(heat.checked) <= 30
    assert len(heat.kept) == len(heat.checked)
    assert len(heat.noises) == len(heat.checked)


def test_at_least_one_result_is_checked(heat, monkeypatch):
    monkeypatch.setattr(fair, "CHECKED", 0.0)
    heat.run(0, 5, 5, counts=True)
    assert len(heat.checked) == 1


# --- results --------------------------------------------------------------------------------------

DISGUISES = {
    "negated later": lambda: torch._neg_view(torch.ones(3)),
    "zero without memory": lambda: torch._efficientzerotensor(3),
    "a functional one": lambda: torch._to_functional_tensor(torch.ones(3)),
    "copied when written": lambda: torch._lazy_clone(torch.ones(3)),
    "conjugated later": lambda: torch.ones(3, dtype=torch.complex64).conj(),
}


@pytest.mark.parametrize("what", DISGUISES)
def test_a_lazy_tensor_is_found_though_its_class_is_right(what):
    made = DISGUISES[what]()
    assert type(made) is torch.Tensor
    with pytest.raises(Refused, match=what):
        results.check_tensor(made, torch, "cpu")
    results.check_tensor(torch.ones(3), torch, "cpu")


def test_a_class_that_a_tensor_claims_is_not_believed():
    class Mine(torch.Tensor):
        @classmethod
        def __torch_function__(cls, *_args, **_kwargs):
            return torch.Size([3])

        @property
        def __class__(self):
            return torch.Tensor

    spec = {"shape": [3], "dtype": "float32"}
    results.check_form(torch.ones(3), spec, torch.Tensor)
    with pytest.raises(Refused, match="no subclass"):
        results.check_form(torch.ones(3).as_subclass(Mine), spec, torch.Tensor)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system has no /proc")
def test_memory_of_several_processes_is_told_from_private_memory():
    private, common = torch.ones(1 << 20), torch.ones(1 << 20).share_memory_()
    assert not shared_mapping([span(private)])
    assert shared_mapping([span(common)])
    assert shared_mapping([span(private), span(common[5:9])])


def test_results_of_three_calls_are_copied_again():
    order = {"path": str(KERNELS / "reference.py"), "slot": "layer_norm", "threads": 1}
    dice = Dice(1)
    case = Case("x", (dice.normal(3, 50), dice.normal(50), dice.normal(50)))
    copied = []
    with Sandbox(order | {"device": "cpu"}) as child:
        child.case(case, [torch.empty(3, 50)], hold=2)
        for _ in range(3):
            child.write(dice.vary(case))
            child.call()
            copied.append(child.copied)
        for back in range(3):
            guard.kept(child, back, copied[2 - back])
        with pytest.raises(Refused, match="changes a result after it has returned it"):
            guard.kept(child, 1, copied[2])
        with pytest.raises(Refused):
            guard.kept(child, 3, copied[0])  # it holds no more


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2])
def test_no_more_cores_than_asked_for_not_even_a_little(n_threads):
    guard.fair(made_up(threads=n_threads, most_cores=1.0 * n_threads), REFERENCE, TWIN)
    guard.fair(made_up(threads=n_threads, most_cores=float("nan")), REFERENCE, TWIN)
    with pytest.raises(Refused, match="cores at work"):
        guard.fair(made_up(threads=n_threads, most_cores=1.05 * n_threads), REFERENCE, TWIN)


@pytest.mark.parametrize(
    ("seconds", "gap", "ahead", "refused"),
    [
        (1e-4, "G", 3e-5, True),  # a third of a short call
        (1e-4, "G", 1e-5, False),
        (1e-2, "G", 1e-4, False),  # a hundredth of a long one
        (1e-2, "G", 3e-4, True),
        (1e-4, "poison", 8e-5, False),  # nothing is there to work on: idle threads
        (1e-4, "poison", 3e-4, True),
    ],
)
def test_work_ahead_is_held_against_the_length_of_a_call(seconds, gap, ahead, refused):
    used = {"": {gap: ahead}, REFERENCE: {gap: 0.0}}
    race = made_up(candidate=seconds, overtime=used)
    with pytest.raises(Refused, match="not its turn") if refused else nullcontext():
        guard.out_of_turn(race, REFERENCE)
    if not refused:
        more = {"": {gap: 10 * ahead}, REFERENCE: {gap: 5 * ahead}}  # a rival uses as much
        guard.out_of_turn(made_up(candidate=seconds, overtime=more), REFERENCE)


def worker(**overtime):
    return SimpleNamespace(overtime=overtime)


def test_what_an_honest_process_uses_per_second_is_allowed_in_longer_gaps():
    """As an H200 had it: CUDA's threads wake up, and only a candidate's results are checked."""
    honest = worker(settle=[(3e-5, 0.1)] * 30, poison=[(6e-5, 0.2)] * 10, G=[(0.0, 1e-4)] * 10)
    alike = worker(again=[(1.2e-4, 0.36)] * 10, poison=[(6e-5, 0.2)] * 10, G=[(0.0, 1e-4)] * 10)
    ahead = worker(again=[(1.2e-4, 0.36)] * 10, G=[(3e-5, 0.1)] * 10)
    at_work = worker(again=[(5e-3, 0.36)] * 10)
    for candidate, refused in ((alike, False), (ahead, True), (at_work, True)):
        allowed = fair.allowed_between(candidate, honest)
        used = {"": fair.used_between(candidate), REFERENCE: allowed}
        race = made_up(candidate=1e-4, overtime=used)
        with pytest.raises(Refused, match="not its turn") if refused else nullcontext():
            guard.out_of_turn(race, REFERENCE)


def test_a_busy_machine_gets_no_ratio_and_no_time():
    race = made_up(busy="others used 90% of the processors")
    printed = report.text(outcome(race))
    assert "too busy to say: others use its processors" in printed
    whole = Whole("encoder", ["positions"], [1.0], [np.full(5, 0.1)] * 2, busy=race.busy)
    printed += report.text(outcome(race, whole=whole))
    assert not re.search(r"\dx|\d (us|ms)\b|x =|no difference", printed)


@pytest.mark.parametrize("share", np.linspace(0.05, 1, 20))
@pytest.mark.parametrize("quicker", [1.5, 3, 20])
def test_no_share_of_the_roof_is_printed_that_would_be_refused(share, quicker):
    """Of a kernel that takes less than this machine can, in a share of its calls."""
    race = made_up(candidate=1e-4)
    needed = race.least()
    times = race.times[""]
    times[:] = 1.1 * needed
    times[: round(share * len(times))] = needed / quicker
    refused = share > 0.75  # most of its calls
    with pytest.raises(Refused, match="ROOF") if refused else nullcontext():
        guard.fair(race, REFERENCE, TWIN)
    if not refused:
        (line,) = [x for x in report.text(outcome(race)).splitlines() if x.startswith("speech")][1:]
        shown = re.findall(r"(\d+)%$", line)
        assert shown or "too busy to say" in line
        assert all(int(percent) <= 100 * ALLOWANCE for percent in shown)
