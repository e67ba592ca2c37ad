"""The race: a kernel, its rivals and a second copy of one rival, call by call in turn.

No round repeats contents: the parent writes new ones to the same addresses before each call. The
rivals get those that the kernel had in the round before: their answers are of no use to it. A call
lasts, by the parent's clock, from "go" to "returned", less what an empty call takes. On a device
"go" calls many copies of a case, and a call's time is their share.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from ...race import no_garbage_collection, rounds, spread
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

LEAST_ROUNDS, MOST_ROUNDS = 9, 1000
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
    reference: Sandbox,
    twin: Sandbox,
    rivals: Sandbox,
    slot: Slot,
    case: Case,
    dice: Dice,
    seconds: float,
    least: int = LEAST_ROUNDS,
) -> Race:
    """Time a case, for `seconds` and `least` rounds.

    Raises Refused for a wrong result, work out of turn, or a time too good.
    """
    runners = lined_up(candidate, reference, twin, rivals, slot, dice)
    outs = slot.results(case)
    n_bytes = least_bytes(case, outs)
    on_device, n_copies = candidate.device != "cpu", 1
    if on_device:
        bound = device_roof(twin, dice.dtype)
        n_copies = copies.enough([runners[""], runners[TWIN]], case, outs, dice, n_bytes)
    else:
        bound = roof(n_bytes, dice.dtype, candidate.threads)
    for child in (candidate, reference, twin, rivals):
        child.case(case, outs, "" if child is candidate else REFERENCE, copies=n_copies)
    heat = Heat(runners, partial(timed_right, candidate, slot), case, dice, n_copies)
    heat.run(WARM_SECONDS, LEAST_WARM, MOST_WARM)
    heat.run(seconds, least, MOST_ROUNDS, counts=True)
    result = heat.result(twin)
    result.flops, result.n_bytes = float(slot.flops(*case.args, **case.kwargs)), n_bytes
    result.roof = bound
    if candidate.preparing:
        result.prepare = float(np.median(candidate.preparing))
    if on_device:
        result.cached = twin.loaded["gpu"]["l2"] / n_copies
    guard.fair(result, REFERENCE, TWIN)
    return result


class Heat:
    """Rounds in which a kernel and its rivals are called in turn, and what was seen in them."""

    def __init__(
        self,
        runners: dict[str, tuple[Sandbox, str]],
        right: Callable[[Case, int], float],
        case: Case,
        dice: Dice,
        copies: int = 1,
    ) -> None:
        """runners: by name, the process and the function there; the kernel's name is "".

        right: refuses the kernel's result for these contents, of this copy, or returns its noise.
        copies: of the case, that one order calls.
        """
        self.runners, self.right, self.case, self.dice = runners, right, case, dice
        self.copies, self.chance = copies, random.Random(dice.below(1 << 30))
        self.candidate = runners[""][0]
        self.on_device = self.candidate.device != "cpu"
        self.honest = TWIN if TWIN in runners else REFERENCE
        self.calls: dict[str, list[Call]] = {name: [] for name in runners}
        self.noises: list[float] = []  # of the results that were checked
        # On a device: MHz of each contestant's calls; and for how many seconds at most the device
        # works for the kernel after a rival's call, and for an honest contestant, in each round.
        self.clocks: dict[str, list[float]] = {name: [] for name in runners}
        self.settling: dict[str, list[float]] = {"": [], self.honest: []}
        self.others = Others()
        # What the kernel had in the round before, and memory for what it will have in the next.
        self.earlier, self.spare = self.contents(), self.contents()
        self.tasks = self.candidate.tasks()
        for child, _ in runners.values():
            child.overtime.clear()

    def contents(self) -> list[Case]:
        return [self.dice.vary(self.case) for _ in range(self.copies)]

    def run(self, seconds: float, least: int, most: int, counts: bool = False) -> None:
        """Run rounds until `seconds` are over, at least `least` and at most `most`. Raises Refused.

        counts: keep their times.
        """
        helped = helpers_time(self.candidate.pid)
        with steady():
            for order in rounds(self.runners, seconds, least, most, self.chance):
                # At least one result is checked, in the last round if not before.
                last = len(self.calls[""]) == least - 1 and not self.noises
                self.round(order, counts, self.chance.random() < CHECKED or last)
        guard.no_helpers(self.candidate, helped)

    def round(self, order: list[str], counts: bool, look: bool) -> None:
        """Call every contestant with new contents; look: check the kernel's results."""
        look = look or self.on_device
        fresh = [self.dice.vary(self.case, into=old) for old in self.spare]
        # A third of a device's copies; a worker learns which when it has called all of them.
        third = [0]
        if self.on_device:
            third = self.chance.sample(range(self.copies), len(self.candidate.results))
        waits: dict[str, list[float]] = {who: [] for who in self.settling}
        for name in order:
            child, function = self.runners[name]
            child.use(function)
            child.look = name == ""
            with self.others.turn(name, "write"):
                child.write(*(self.earlier if name else fresh))
            with self.others.turn(name, "call"):
                call = self.clocked(name, third) if self.on_device else child.call()
            if name == "":
                guard.alone(child, self.tasks)
                if look or quick(call, self.calls[""]):
                    self.noises += [self.right(fresh[n], n) for n in third]
            elif self.on_device:
                for who, seconds in waits.items():
                    seconds.append(self.runners[who][0].settle()[0])
            if counts:
                self.calls[name].append(call)
        if look:
            guard.kept(self.candidate)
        if self.on_device:
            for who, seconds in waits.items():
                self.settling[who].append(max(seconds))
        self.earlier, self.spare = fresh, self.earlier

    def result(self, twin: Sandbox) -> Race:
        """The rounds that count as times; twin: an honest contestant's process. Raises Refused."""
        self.others.check()
        race = summed_up(self.calls, self.candidate, twin)
        race.checked, race.noise = len(self.noises), max(self.noises)
        race.others = self.others.said()
        if self.on_device:
            race.copies, race.clocks, race.settling = self.copies, self.clocks, self.settling
        return race

    def clocked(self, name: str, look_at: list[int]) -> Call:
        """A contestant's call on a device, whose clock is read before and after."""
        child = self.runners[name][0]
        bus = child.loaded["gpu"]["bus"]
        before = sm_clock(bus)
        call = child.call(look_at)
        self.clocks[name].append((before + sm_clock(bus)) / 2)
        return call


def lined_up(
    candidate: Sandbox, reference: Sandbox, twin: Sandbox, rivals: Sandbox, slot: Slot, dice: Dice
) -> dict[str, tuple[Sandbox, str]]:
    """Contestant -> its process, and the function's name there.

    The reference has a process of its own, as the kernel has: one that is called more often in a
    round is quicker, by some 5 %.
    """
    # NumPy has neither bfloat16 nor a GPU.
    plain = dice.dtype == torch.float32 and candidate.device == "cpu"
    usable = [n for n, (_, arrays) in slot.rivals.items() if plain or arrays == "torch"]
    ours = {TWIN: (twin, REFERENCE), REFERENCE: (reference, REFERENCE)}
    return {"": (candidate, ""), **ours, **{name: (rivals, name) for name in (*usable, NOTHING)}}


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

    times, copying, working = each("time"), each("copying"), each("working")
    most_cores = spread(working[""] / times[""])[1]
    # The low end: on a busy machine the middle says how busy it was. Next to a whole encoder: none.
    empty = float(np.percentile(times.pop(NOTHING, 0.0), 20))
    empty_work = float(np.percentile(working.pop(NOTHING, 0.0), 20))
    times = {name: np.maximum(t - empty, 0) for name, t in times.items()}
    cores = {
        name: float(np.median((working[name] - empty_work) / np.maximum(t, 1e-9)))
        for name, t in times.items()
    }
    dense = all(call.dense for call in calls[""])
    if not dense:
        # A result with gaps, or transposed, takes its reader longer, which is part of its price.
        longer = float(np.median(copying[""]) - np.median(copying[REFERENCE]))
        times[""] += max(0.0, longer / len(candidate.results))
    events = [call.event for call in calls[""] if call.event is not None]
    threads = candidate.threads
    lag = each("lag")
    overtime = {"": used_between(candidate), REFERENCE: allowed_between(candidate, twin)}
    return Race(times, lag, copying, events, dense, threads, cores, most_cores, overtime)


def used_between(child: Sandbox) -> dict[str, float]:
    """Processor time that a process used between calls, by what came next.

    Each gap by itself: a kernel would work ahead in the one after contents were written. The high
    end: to work ahead in half of the rounds is enough for the median.
    """
    return {gap: spread([used for used, _ in made])[1] for gap, made in child.overtime.items()}


def allowed_between(candidate: Sandbox, honest: Sandbox) -> dict[str, float]:
    """What an honest process used there, or would have used in gaps as long as the candidate's.

    CUDA's own threads wake up now and then. The candidate's gaps are not the honest process's: in
    one of them its results are checked. Twice what that process used per second is allowed, since
    one gap has more of these moments than another, but nothing once the contents are written.
    """
    pairs = [pair for made in honest.overtime.values() for pair in made]
    spent, idle = sum(used for used, _ in pairs), sum(seconds for _, seconds in pairs)
    allowed = used_between(honest)
    for gap, made in candidate.overtime.items():
        if gap != "G":
            longest = spread([seconds for _, seconds in made])[1]
            allowed[gap] = max(allowed.get(gap, 0.0), 2 * longest * spent / idle)
    return allowed
