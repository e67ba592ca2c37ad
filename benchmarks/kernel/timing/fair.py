"""The race: a kernel, its rivals and a second copy of one rival, call by call in turn.

In each round every contestant is called once, in an order that changes, on contents that no round
before has had, written by the parent to the same addresses before each call. A call lasts, by the
parent's clock, from "go" to "returned", less what an empty call takes. Processes differ: the same
function in two of them is some percent apart, and so the second copy lives in a process of its own.
What its ratio to the first says, and at least BAND, is no difference.
"""

from __future__ import annotations

import contextlib
import gc
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from ..proof.cases import Case, Dice
from ..proof.verdict import Standard, check
from ..sandbox.parent import Child, Refused
from ..sandbox.processes import descendants, helpers_time
from ..slots.base import Slot, least_bytes, results
from ..slots.functions import Array
from .roof import Roof, roof

BAND = 0.05  # ratios this close to 1 are called no difference even if two copies are closer
TOO_BUSY = 2.0  # a machine on which two copies may differ by this factor says nothing
ALLOWANCE = 1.25  # how much faster than its roof a kernel may seem
LEAST_ROUNDS, MOST_ROUNDS = 9, 60
# Rounds before the first that counts: a new process maps fresh memory in each of its first seven
# or eight calls, which doubles their time. Two are enough to fill the caches of a long op.
WARM_ROUNDS, WARM_SECONDS = 10, 1.0
CHECKED = 1 / 3  # of the candidate's timed results, by chance
HASTE = 0.85  # of its median so far: a call as quick as this is always checked
NOTHING, REFERENCE, TWIN = "nothing", "reference", "second copy"


@dataclass
class Race:
    """Times of one case, in seconds, an empty call taken off."""

    times: dict[str, Array]  # contestant -> one for each round
    lag: dict[str, Array]  # from "returned" to being asleep
    copying: dict[str, Array]  # processor time of laying the result down
    events: list[float]  # of the candidate on a GPU
    flops: float
    n_bytes: float
    roof: Roof
    checked: int  # results of the candidate that were looked at
    noise: float  # the worst of them
    dense: bool = True  # the candidate's results are contiguous
    threads: int = 1  # asked for
    cores: dict[str, float] = field(default_factory=dict)  # kept at work; NaN if unknown
    overtime: dict[str, float] = field(default_factory=dict)  # seconds a call, used out of turn

    def median(self, who: str) -> float:
        return float(np.median(self.times[who]))

    def starved(self) -> bool:
        """Whether the rivals were kept from the processor, and the candidate was not.

        On a busy machine that may be chance: long calls are interrupted more often than short ones.
        """
        rivals = (self.cores.get(name, 1.0) for name in (REFERENCE, TWIN))
        return min(rivals) < 0.6 * min(1.0, self.cores.get("", 1.0))

    def spread(self, who: str) -> tuple[float, float]:
        """The 20th and the 80th percentile."""
        low, high = np.percentile(self.times[who], [20, 80])
        return float(low), float(high)

    def of_roof(self) -> float:
        """Share of what the roof allows, 1 is as fast as the machine can."""
        least = self.roof.seconds(self.flops, self.n_bytes) if self.roof.bandwidth else float("nan")
        return least / max(self.median(""), 1e-9)

    def band(self) -> float:
        """Half the width, in natural logarithms, of what is no difference."""
        low, high = log_ratio(self.times[REFERENCE], self.times[TWIN])
        return max(float(np.log1p(BAND)), abs(low), abs(high))

    def unclear(self) -> str:
        """Why these times say nothing, in words, or nothing if they do say something."""
        if not all(self.spread(who)[0] > 0 for who in ("", REFERENCE, TWIN)):
            return "calls took no longer than an empty call did"
        if not self.band() <= np.log(TOO_BUSY):
            return f"two copies of the same function may differ by more than {TOO_BUSY:g} x"
        return ""

    def ratio(self, rival: str) -> tuple[float, bool]:
        """Rival's time over the kernel's - above 1 the kernel is faster - and whether it counts."""
        low, high = log_ratio(self.times[rival], self.times[""])
        ratio = self.median(rival) / max(self.median(""), 1e-9)
        return ratio, low > self.band() or high < -self.band()


def log_ratio(a: Array, b: Array, draws: int = 500) -> tuple[float, float]:
    """99 % interval of log(median(a) / median(b)) from rounds drawn again, with replacement."""
    rng = np.random.default_rng(0)
    rounds = rng.integers(0, len(a), (draws, len(a)))  # the same for both: they share their rounds
    least = 1e-9
    ratios = np.log(
        np.maximum(np.median(a[rounds], axis=1), least)
        / np.maximum(np.median(b[rounds], axis=1), least)
    )
    low, high = np.percentile(ratios, [0.5, 99.5])
    return float(low), float(high)


@contextlib.contextmanager
def steady() -> Iterator[None]:
    """The parent keeps to one thread, and collects no garbage, while others are timed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        torch.set_num_threads(threads)


def race(
    candidate: Child, rivals: Child, twin: Child, slot: Slot, case: Case, dice: Dice, seconds: float
) -> Race:
    """Time a case. Raises Refused for a result that is wrong, work out of turn, or too good."""
    # NumPy knows neither bfloat16 nor a GPU.
    plain = dice.dtype == torch.float32 and candidate.device == "cpu"
    names = [REFERENCE, *(n for n, (_, kind) in slot.rivals.items() if plain or kind == "torch")]
    outs = results(slot, case.args, case.kwargs)
    single = len(outs) == 1 and slot.name != "qkv"
    runners: dict[str, tuple[Child, str]] = {"": (candidate, ""), TWIN: (twin, REFERENCE)}
    runners |= {name: (rivals, name) for name in [*names, NOTHING]}
    candidate.case(case.args, case.kwargs, outs, single)
    for child in (rivals, twin):
        child.case(case.args, case.kwargs, outs, single, REFERENCE)
    dtype = str(dice.dtype).removeprefix("torch.")
    bound = Roof(0, 0)  # of a GPU nothing is measured yet
    if candidate.device == "cpu":
        bound = roof(least_bytes(case.args, outs), dice.dtype, candidate.threads)
    times: dict[str, list[float]] = {name: [] for name in runners}
    lag: dict[str, list[float]] = {name: [] for name in runners}
    copying: dict[str, list[float]] = {name: [] for name in runners}
    overtime = {"": candidate, REFERENCE: twin}
    for child in overtime.values():
        child.overtime.clear()
    events: list[float] = []
    cores: dict[str, list[float]] = {name: [] for name in runners}
    checked, worst, dense = 0, 0.0, True
    chance = random.Random(dice.below(1 << 30))
    warmed, end = time.perf_counter() + WARM_SECONDS, float("inf")
    tasks, helped = candidate.tasks(), helpers_time(candidate.pid)
    turn = -WARM_ROUNDS
    with steady():
        while turn < MOST_ROUNDS and (turn < LEAST_ROUNDS or time.perf_counter() < end):
            if 2 - WARM_ROUNDS <= turn < 0 and time.perf_counter() > warmed:
                turn = 0
            if turn == 0:
                end = time.perf_counter() + seconds
            order = list(runners)
            chance.shuffle(order)
            content = dice.vary(case)
            look = chance.random() < CHECKED or (turn == LEAST_ROUNDS - 1 and not checked)
            for name in order:
                child, function = runners[name]
                child.use(function)
                child.write(content.tensors())
                child.look = name == ""  # which of them are looked at is settled afterwards
                call = child.call()
                if name == "":
                    # Who leaves work out now and then is quick just then.
                    quick = HASTE * float(np.median(times[""])) if times[""] else 0.0
                    look |= call.time < quick
                    dense &= call.dense
                    events += [call.event] if call.event is not None else []
                    alone(child, tasks)
                if turn >= 0:
                    cores[name].append(call.working / call.time)
                    times[name].append(call.time)
                    lag[name].append(call.lag)
                    copying[name].append(call.copying)
                if name == "" and look:
                    worst = max(worst, timed_right(child, slot, content, dtype))
                    checked += 1
                child.look = True
            turn += 1
    # The low end: on a busy machine the middle says how busy it was.
    empty = float(np.percentile(times.pop(NOTHING), 20))
    taken = {name: np.maximum(np.array(t) - empty, 0) for name, t in times.items()}
    if not dense:
        # A result with gaps, or transposed, takes whoever reads it longer: that is its price too.
        taken[""] += max(0.0, float(np.median(copying[""]) - np.median(copying[REFERENCE])))
    result = Race(
        taken,
        {n: np.array(c) for n, c in lag.items()},
        {n: np.array(c) for n, c in copying.items()},
        events,
        float(slot.flops(*case.args, **case.kwargs)),
        least_bytes(case.args, outs),
        bound,
        checked,
        worst,
        dense,
        threads=candidate.threads,
        cores={n: float(np.median(c)) for n, c in cores.items()},
    )
    for name, child in overtime.items():
        # Of each gap by itself: the one in which contents are written is the one to work ahead in.
        # The median: a machine that stops for a moment shows up in one of them.
        result.overtime[name] = max(
            (float(np.median(u)) for u in child.overtime.values()), default=0
        )
    if helpers_time(candidate.pid) > helped:
        raise Refused("PROCESS", "has other processes do work once it is timed")
    fair(result)
    return result


def alone(child: Child, tasks: set[int]) -> None:
    """Refuse a candidate that has started threads or processes since it was proved."""
    if new := child.left(tasks):
        raise Refused("THREAD", f"starts {len(new)} thread(s) once it is timed", certain=True)
    if left := descendants(child.pid):
        raise Refused("PROCESS", f"starts {len(left)} process(es) once it is timed")


def timed_right(child: Child, slot: Slot, content: Case, dtype: str) -> float:
    """Check a timed result as the proof does; its noise."""
    standard = Standard.of(slot, content, dtype)
    try:
        if not child.untouched(content.tensors()):
            raise Refused("MUTATED", "changes what it is given")
        return check(child.copied, standard).noise
    except Refused as refused:
        raise Refused(
            "TIMED", f"right in the proof, but not when timed: {refused.code}, {refused.text}"
        ) from None


def fair(race: Race) -> None:
    """Refuse what the times themselves give away."""
    mine, theirs = race.overtime[""], race.overtime[REFERENCE]
    allowed = 2 * max(theirs, 0) + max(3e-4, 0.05 * race.median(""))
    if mine > allowed:
        raise Refused(
            "THREAD",
            f"its process uses {1e3 * mine:.2f} ms of processor time between "
            f"two calls, when it is not its turn (the rivals' {1e3 * theirs:.2f} ms)",
        )
    # The low end against the high one: on a busy machine the parent may hear of the answer late.
    for what, slower in (("lag", 2.0), ("copying", 1.2)) if race.dense else (("lag", 2.0),):
        times = getattr(race, what)
        mine = float(np.percentile(times[""], 20))
        usual = max(float(np.percentile(times[n], 80)) for n in (REFERENCE, TWIN))
        if mine > slower * usual + 1e-4:  # False where it is unknown
            raise Refused(
                "LATE",
                f"its process works {1e3 * mine:.2f} ms after it has said that it returned, where "
                f"others take {1e3 * usual:.2f} ms to lay the result down",
            )
    if race.cores.get("", 1.0) > 1.15 * race.threads + 0.1:
        raise Refused(
            "THREAD", f"keeps {race.cores['']:.1f} cores at work, and {race.threads} were asked for"
        )
    if race.events:
        event = float(np.median(race.events))
        if race.median("") > 2 * event + 1e-4:
            raise Refused(
                "STREAM",
                f"its events say {1e3 * event:.3f} ms, the clock "
                f"{1e3 * race.median(''):.3f} ms: work on a stream of its own",
            )
    if race.roof.bandwidth:
        least = race.roof.seconds(race.flops, race.n_bytes) / ALLOWANCE
        if race.spread("")[1] < least:
            raise Refused(
                "ROOF",
                f"{1e6 * race.median(''):.1f} us, and this machine needs at least "
                f"{1e6 * least:.1f} us to move the bytes or to multiply",
            )
