"""The arithmetic of the race on made-up times, and how the parent monitors a worker."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from melfront.benchmarks.kernel import run
from melfront.benchmarks.kernel.proof import cases
from melfront.benchmarks.kernel.reasons import Refused
from melfront.benchmarks.kernel.sandbox import guard, processes
from melfront.benchmarks.kernel.sandbox.parent import Sandbox
from melfront.benchmarks.kernel.slots import files, find, inputs
from melfront.benchmarks.kernel.slots.base import least_bytes
from melfront.benchmarks.kernel.timing import fair
from melfront.benchmarks.kernel.timing import roof as roofs
from melfront.benchmarks.kernel.timing.times import ALLOWANCE, BAND, REFERENCE, TWIN, Race

KERNELS = Path(__file__).parent / "kernels"


def made_up(candidate=1e-3, reference=1e-3, twin=1e-3, spread=0.02, n=40, seed=0, **changes):
    """A race with relative noise of `spread`. The kernel's minimum time is a tenth of its time."""
    rng = np.random.default_rng(seed)

    def times(mean):
        return mean * np.exp(rng.normal(0, spread, n))

    race = Race(
        times={"": times(candidate), REFERENCE: times(reference), TWIN: times(twin)},
        lag={name: np.full(n, 5e-5) for name in ("", REFERENCE, TWIN)},
        copying={name: np.full(n, 1e-4) for name in ("", REFERENCE, TWIN)},
        events=[],
        flops=1e5,
        n_bytes=1e6,
        roof=roofs.Roof(1e10, 1e11),
        checked=9,
        noise=1.0,
        overtime={"": {"G": 0.0, "poison": 5e-5}, REFERENCE: {"G": 0.0}},
    )
    return replace(race, **changes)


def test_equal_times_are_not_significant():
    wrong = sum(made_up(seed=seed).ratio(REFERENCE)[1] for seed in range(200))
    assert wrong == 0


def test_difference_counts_beyond_the_band():
    ratio, counts = made_up(candidate=0.5e-3).ratio(REFERENCE)
    assert ratio == pytest.approx(2, rel=0.05)
    assert counts
    ratio, counts = made_up(candidate=2e-3).ratio(REFERENCE)
    assert ratio == pytest.approx(0.5, rel=0.05)
    assert counts


def test_second_copy_sets_the_band():
    assert made_up().band() == pytest.approx(np.log1p(BAND), rel=0.5)
    slow_copy = made_up(candidate=0.8e-3, twin=1.3e-3)
    assert slow_copy.band() > np.log(1.25)
    assert not slow_copy.ratio(REFERENCE)[1]


def test_reference_is_the_mean_of_its_copies():
    race = made_up(twin=1.21e-3)
    assert race.ratio(REFERENCE)[0] == pytest.approx(1.1, rel=0.02)
    assert race.ratio(TWIN)[0] == pytest.approx(1.21, rel=0.02)


@pytest.mark.parametrize("spread", [0.02, 0.2])
def test_least_difference_is_the_least_that_counts(spread):
    race = made_up(spread=spread)
    least, now = race.least_difference(REFERENCE), race.log_ratio(REFERENCE, "")[1]
    for share, expected in (0.99, False), (1.01, True):
        for sign in (-1, 1):
            factor = np.exp(now + sign * share * least)
            times = {**race.times, "": race.times[""] * factor}
            assert replace(race, times=times).ratio(REFERENCE)[1] == expected


def test_fair_race_is_accepted():
    guard.fair(made_up(), REFERENCE, TWIN)


def test_starved_rivals_are_detected():
    kept = {"": 0.95, REFERENCE: 0.95, TWIN: 0.93}
    assert not made_up(cores=kept).starved()
    assert made_up(cores={**kept, TWIN: 0.3}).starved()
    busy = dict.fromkeys(kept, 0.4)  # all of them wait: the machine is busy
    assert not made_up(cores=busy).starved()
    assert not made_up(cores=dict.fromkeys(kept, float("nan"))).starved()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"candidate": 5e-5}, "ROOF"),
        ({"overtime": {"": {"G": 5e-5}, REFERENCE: {"G": 0.0}}}, "THREAD"),
        ({"overtime": {"": {"poison": 5e-3}, REFERENCE: {"poison": 1e-4}}}, "THREAD"),
        (
            {
                "copying": {
                    "": np.full(40, 2e-3),
                    REFERENCE: np.full(40, 1e-4),
                    TWIN: np.full(40, 1e-4),
                }
            },
            "LATE",
        ),
        ({"events": [1e-4] * 40}, "STREAM"),
        ({"most_cores": 1.05, "threads": 1}, "THREAD"),
    ],
)
def test_unfair_times_are_refused(changes, code):
    with pytest.raises(Refused) as refused:
        guard.fair(made_up(**changes), REFERENCE, TWIN)
    assert refused.value.code == code


def test_roof_is_an_upper_bound():
    """Measured in turn, the best of three each, because other programs may use the memory."""
    a, b = np.ones(1 << 19, np.float32), np.empty(1 << 19, np.float32)
    bounds, reached = [], []
    for _ in range(3):
        roofs.copy_rate.cache_clear()
        bounds.append(roofs.roof(1 << 22, torch.float32, threads=1))
        reached.append(2 * a.nbytes / roofs.best(lambda: np.copyto(b, a), 0.15))
    bound = max(bounds, key=lambda bound: bound.bandwidth)
    assert max(reached) < bound.bandwidth * ALLOWANCE
    assert bound.rate > 1e8
    assert bound.seconds(0, bound.bandwidth) == pytest.approx(1)


@pytest.mark.parametrize("name", files())
def test_work_is_counted(name):
    slot = find(name)
    case = cases.captured(slot, "tiny", None, torch.float32)[0]
    if name == "softmax":
        case = replace(case, args=(case.args[0][:, :1],))
    flops = slot.flops(*case.args, **case.kwargs)
    n_bytes = least_bytes(case, slot.results(case))
    assert flops > 1e5
    assert n_bytes > 4 * 1e5
    if name in {"conv1d_gelu", "linear", "qkv", "attention", "mlp", "block"}:
        assert flops / n_bytes > 20
    elif name in {"stft", "mel", "log_scale", "log_mel", "gelu", "layer_norm", "softmax"}:
        assert flops / n_bytes < 20


def test_flops_of_the_products():
    x, w = torch.empty(2, 7, 11), torch.empty(13, 11)
    assert find("linear").flops(x, w) == 2 * 14 * 11 * 13
    q = torch.empty(2, 3, 5, 64)
    assert find("attention").flops(q, q, q) == 2 * 3 * 5 * 5 * (4 * 64 + 4)


def test_vary_changes_contents_but_not_shapes():
    dice = inputs.Dice(1)
    base = torch.arange(1.0, 61).view(3, 20)[:, ::2]
    case = inputs.Case("x", (base,))
    first, second = dice.vary(case).args[0], dice.vary(case).args[0]
    assert first.shape == base.shape
    assert first.stride() == base.stride()
    assert not torch.equal(first, second)
    assert float((first / base - 1).abs().max()) <= 0.051
    bits = dice.vary(replace(case, vary="bits")).args[0]
    assert set(bits.unique().tolist()) <= {0.0, 1.0}
    same = inputs.Dice(1)
    assert torch.equal(same.vary(case).args[0], first)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc")
def test_parent_sees_cpu_time_and_processes_of_a_worker():
    before = processes.processor_time(os.getpid())
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert processes.processor_time(os.getpid()) - before > 0.04
    order = {
        "path": str(KERNELS / "reference.py"),
        "slot": "layer_norm",
        "threads": 1,
        "device": "cpu",
    }
    with Sandbox(order) as child:
        assert processes.descendants(child.pid) == []
        assert child.pid in processes.workers
        idle = processes.processor_time(child.pid)
        time.sleep(0.05)
        assert processes.processor_time(child.pid) - idle < 0.02
        assert child.memory() > 1 << 20
    assert child.pid == 0


# --- a busy machine -------------------------------------------------------------------------------


class Busy:
    """A stand-in for both `busy.Load` and the sandbox."""

    pid = 1

    def __init__(self, text):
        self.text = text

    def busy(self):
        return self.text


@pytest.mark.parametrize(
    ("code", "busy", "races"), [("LATE", "busy", 2), ("LATE", "", 2), ("TIMED", "busy", 1)]
)
def test_ambiguous_refusal_is_raced_again_with_more_rounds(monkeypatch, code, busy, races):
    asked, least = [], []

    def race(*arguments, **rounds):
        asked.append(arguments)
        least.append(rounds)
        raise Refused(code, "too late")

    monkeypatch.setattr(fair, "race", race)
    with pytest.raises(
        Refused, match="too late; the machine is busy: busy" if races > 1 and busy else "too late$"
    ):
        run.raced(Busy(busy), fair.race, Busy(""), "the rest")
    assert len(asked) == races
    assert all(arguments[1:] == ("the rest",) for arguments in asked)
    assert least == [{}, {"least": run.ENOUGH}][:races]


def test_certain_refusal_is_not_raced_again(monkeypatch):
    """In a second race, the thread would exist from the start and not be new."""

    def race(*_, **_rounds):
        raise Refused("THREAD", "starts a thread", certain=True)

    monkeypatch.setattr(fair, "race", race)
    with pytest.raises(Refused, match=r"starts a thread$"):
        run.raced(Busy("busy"), fair.race, Busy(""))


@pytest.mark.parametrize("lives_on", [False, True])
def test_finished_thread_may_take_a_moment_to_disappear(lives_on):
    child = object.__new__(Sandbox)
    looks = iter([{1, 2}, {1, 2}, {1, 2}])
    child.tasks = lambda: next(looks, {1, 2} if lives_on else {1})
    assert child.left({1}) == ({2} if lives_on else set())


def test_single_refusal_is_forgiven(monkeypatch):
    outcomes = [Refused("THREAD", "out of turn"), "a race"]

    def race(*_, **_rounds):
        outcome = outcomes.pop(0)
        if isinstance(outcome, Refused):
            raise outcome
        return outcome

    monkeypatch.setattr(fair, "race", race)
    assert run.raced(Busy("busy"), fair.race, Busy("")) == "a race"
