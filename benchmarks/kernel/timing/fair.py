"""The race: a kernel, its rivals and a second copy of one rival, call by call in turn.

No round repeats contents: the parent writes new ones to the same addresses before each call. A call
lasts, by the parent's clock, from "go" to "returned", less what an empty call takes. On a device
"go" calls many copies of a case, and a call's time is their share.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from ...race import no_garbage_collection, rounds
from ..proof.verdict import Standard, check
from ..reasons import Refused
from ..sandbox import copies, guard
from ..sandbox.others import Others
from ..sandbox.parent import Call, Sandbox
from ..sandbox.processes import helpers_time
from ..slots import find
from ..slots.base import Array, Function, Slot, least_bytes
from ..slots.inputs import Case, Dice
from .clocks import sm_clock
from .roof import RATES, device_roof, measured, roof
from .times import REFERENCE, TWIN, Race

LEAST_ROUNDS, MOST_ROUNDS = 9, 60
# Rounds before the first that counts: a new process maps fresh memory in each of its first seven
# or eight calls, which doubles their time. Two are enough to fill the caches of a long op.
LEAST_WARM, MOST_WARM, WARM_SECONDS = 2, 10, 1.0
CHECKED = 1 / 3  # of the candidate's timed results, by chance
HASTE = 0.85  # of its median so far: a call as quick as this is always checked
NOTHING = "nothing"


def contestants(_candidate: object, name: str, device: str) -> dict[str, tuple[Function, str]]:
    """What the rivals' process serves: the reference, the slot's rivals, and an empty function.

    And one that measures a device's rates.
    """
    slot = find(name)
    nothing = (lambda *_args, **_kwargs: None, "torch")
    rates = (partial(measured, device), "torch")
    return {REFERENCE: (slot.reference, "torch"), **slot.rivals, NOTHING: nothing, RATES: rates}


@contextlib.contextmanager
def steady() -> Iterator[None]:
    """The parent keeps to one thread, and collects no garbage, while others are timed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with no_garbage_collection():
            yield
    finally:
        torch.set_num_threads(threads)


def race(
    candidate: Sandbox,
    rivals: Sandbox,
    twin: Sandbox,
    slot: Slot,
    case: Case,
    dice: Dice,
    seconds: float,
) -> Race:
    """Time a case. Raises Refused for a wrong result, work out of turn, or a time too good."""
    runners = lined_up(candidate, rivals, twin, slot, dice)
    outs = slot.results(case)
    n_bytes = least_bytes(case, outs)
    on_device, n_copies = candidate.device != "cpu", 1
    if on_device:
        bound = device_roof(twin, dice.dtype)
        n_copies = copies.enough([runners[""], runners[TWIN]], case, outs, dice, n_bytes)
    else:
        bound = roof(n_bytes, dice.dtype, candidate.threads)
    for child in (candidate, rivals, twin):
        child.case(case, outs, "" if child is candidate else REFERENCE, copies=n_copies)
        child.overtime.clear()
    heat = Heat(runners, slot, case, n_copies, random.Random(dice.below(1 << 30)))
    tasks, helped = candidate.tasks(), helpers_time(candidate.pid)
    with steady():
        for order in rounds(runners, WARM_SECONDS, LEAST_WARM, MOST_WARM, heat.chance):
            heat.round(order, dice, tasks, counts=False)
        for order in rounds(runners, seconds, LEAST_ROUNDS, MOST_ROUNDS, heat.chance):
            heat.round(order, dice, tasks, counts=True)
    guard.no_helpers(candidate, helped)
    heat.others.check()
    result = summed_up(heat.calls, candidate, twin)
    result.flops, result.n_bytes = float(slot.flops(*case.args, **case.kwargs)), n_bytes
    result.roof, result.checked, result.noise = bound, len(heat.noises), max(heat.noises)
    if on_device:
        result.copies, result.clocks, result.settling = n_copies, heat.clocks, heat.settling
        result.cached = twin.loaded["gpu"]["l2"] / n_copies
    result.others = heat.others.said()
    guard.fair(result, REFERENCE, TWIN)
    return result


@dataclass
class Heat:
    """The rounds of a race, and what was seen in them."""

    runners: dict[str, tuple[Sandbox, str]]
    slot: Slot
    case: Case
    copies: int  # of the case, that one order calls
    chance: random.Random
    calls: dict[str, list[Call]] = field(init=False)
    noises: list[float] = field(default_factory=list)  # of the results that were checked
    # On a device: MHz of each contestant's calls; and for how many seconds at most the device works
    # for the candidate after a rival's call, and for an honest contestant, in each round.
    clocks: dict[str, list[float]] = field(init=False)
    settling: dict[str, list[float]] = field(default_factory=lambda: {"": [], TWIN: []})
    others: Others = field(default_factory=Others)

    def __post_init__(self) -> None:
        self.calls = {name: [] for name in self.runners}
        self.clocks = {name: [] for name in self.runners}
        self.on_device = self.runners[""][0].device != "cpu"

    def round(self, order: list[str], dice: Dice, tasks: set[int], counts: bool) -> None:
        """Call every contestant with the same new contents, and check some of the results."""
        contents = [dice.vary(self.case) for _ in range(self.copies)]
        look = self.on_device or self.chance.random() < CHECKED
        look = look or (len(self.calls[""]) == LEAST_ROUNDS - 1 and not self.noises)
        # A third of a device's copies; a worker learns which when it has called all of them.
        third = [0]
        if self.on_device:
            third = self.chance.sample(range(self.copies), len(self.runners[""][0].results))
        waits: dict[str, list[float]] = {who: [] for who in self.settling}
        for name in order:
            child, function = self.runners[name]
            child.use(function)
            child.look = name == ""
            with self.others.turn(name, "write"):
                child.write(*contents)
            with self.others.turn(name, "call"):
                call = self.clocked(name, third) if self.on_device else child.call()
            if name == "":
                guard.alone(child, tasks)
                if look or quick(call, self.calls[""]):
                    self.noises += [timed_right(child, self.slot, contents[n], n) for n in third]
            elif self.on_device:
                for who, seconds in waits.items():
                    seconds.append(self.runners[who][0].settle()[0])
            if counts:
                self.calls[name].append(call)
        if self.on_device:
            for who, seconds in waits.items():
                self.settling[who].append(max(seconds))

    def clocked(self, name: str, look_at: list[int]) -> Call:
        """A contestant's call on a device, whose clock is read before and after."""
        child = self.runners[name][0]
        bus = child.loaded["gpu"]["bus"]
        before = sm_clock(bus)
        call = child.call(look_at)
        self.clocks[name].append((before + sm_clock(bus)) / 2)
        return call


def lined_up(
    candidate: Sandbox, rivals: Sandbox, twin: Sandbox, slot: Slot, dice: Dice
) -> dict[str, tuple[Sandbox, str]]:
    """Contestant -> its process, and the function's name there."""
    # NumPy has neither bfloat16 nor a GPU.
    plain = dice.dtype == torch.float32 and candidate.device == "cpu"
    usable = [n for n, (_, arrays) in slot.rivals.items() if plain or arrays == "torch"]
    served = {name: (rivals, name) for name in (REFERENCE, *usable, NOTHING)}
    return {"": (candidate, ""), TWIN: (twin, REFERENCE), **served}


def quick(call: Call, earlier: list[Call]) -> bool:
    """Whether a call took suspiciously little: a kernel may leave work out now and then."""
    return bool(earlier) and call.time < HASTE * float(np.median([c.time for c in earlier]))


def timed_right(child: Sandbox, slot: Slot, content: Case, copy: int) -> float:
    """Check a timed result as the proof does; its noise."""
    try:
        child.check_untouched(content, copy)
        return check(child.seen[copy], Standard.of(slot, content)).noise
    except Refused as refused:
        raise Refused(
            "TIMED", f"right in the proof, but not when timed: {refused.code}, {refused.text}"
        ) from None


def summed_up(calls: dict[str, list[Call]], candidate: Sandbox, twin: Sandbox) -> Race:
    """The calls of every round as times, less those of the empty call."""

    def each(of: str) -> dict[str, Array]:
        return {name: np.array([getattr(c, of) for c in made]) for name, made in calls.items()}

    times, copying = each("time"), each("copying")
    cores = {n: float(np.median([c.working / c.time for c in made])) for n, made in calls.items()}
    # The low end: on a busy machine the middle says how busy it was.
    empty = float(np.percentile(times.pop(NOTHING), 20))
    times = {name: np.maximum(t - empty, 0) for name, t in times.items()}
    dense = all(call.dense for call in calls[""])
    if not dense:
        # A result with gaps, or transposed, takes its reader longer, which is part of its price.
        longer = float(np.median(copying[""]) - np.median(copying[REFERENCE]))
        times[""] += max(0.0, longer / len(candidate.results))
    events = [call.event for call in calls[""] if call.event is not None]
    # Each gap by itself: a kernel would work ahead in the one in which contents are written. The
    # median: a machine that stops for a moment shows up in one call.
    overtime = {
        name: max((float(np.median(u)) for u in child.overtime.values()), default=0.0)
        for name, child in (("", candidate), (REFERENCE, twin))
    }
    threads = candidate.threads
    return Race(times, each("lag"), copying, events, dense, threads, cores, overtime)
