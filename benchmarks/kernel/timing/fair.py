"""The race: a kernel, its rivals and a second copy of one rival, call by call in turn.

No round repeats contents: the parent writes new ones to the same addresses before each call. A call
lasts, by the parent's clock, from "go" to "returned", less what an empty call takes.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from ...race import no_garbage_collection, rounds
from ..proof.verdict import Standard, check
from ..reasons import Refused
from ..sandbox import guard
from ..sandbox.parent import Call, Sandbox
from ..sandbox.processes import helpers_time
from ..slots import find
from ..slots.base import Array, Function, Slot, least_bytes
from ..slots.inputs import Case, Dice
from .roof import Roof, roof
from .times import REFERENCE, TWIN, Race

LEAST_ROUNDS, MOST_ROUNDS = 9, 60
# Rounds before the first that counts: a new process maps fresh memory in each of its first seven
# or eight calls, which doubles their time. Two are enough to fill the caches of a long op.
LEAST_WARM, MOST_WARM, WARM_SECONDS = 2, 10, 1.0
CHECKED = 1 / 3  # of the candidate's timed results, by chance
HASTE = 0.85  # of its median so far: a call as quick as this is always checked
NOTHING = "nothing"


def contestants(_candidate: object, name: str) -> dict[str, tuple[Function, str]]:
    """What the rivals' process serves: the reference, the slot's rivals, and an empty function."""
    slot = find(name)
    nothing = (lambda *_args, **_kwargs: None, "torch")
    return {REFERENCE: (slot.reference, "torch"), **slot.rivals, NOTHING: nothing}


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
    on_cpu = candidate.device == "cpu"  # a GPU's roof is not measured
    bound = roof(n_bytes, dice.dtype, candidate.threads) if on_cpu else Roof(0, 0)
    for child in (candidate, rivals, twin):
        child.case(case, outs, "" if child is candidate else REFERENCE)
        child.overtime.clear()
    calls: dict[str, list[Call]] = {name: [] for name in runners}
    noises: list[float] = []  # of the results that were checked
    chance = random.Random(dice.below(1 << 30))
    tasks, helped = candidate.tasks(), helpers_time(candidate.pid)

    def one_round(order: list[str], counts: bool) -> None:
        content = dice.vary(case)
        look = chance.random() < CHECKED or (len(calls[""]) == LEAST_ROUNDS - 1 and not noises)
        for name in order:
            child, function = runners[name]
            child.use(function)
            child.write(content)
            child.look = name == ""  # which of its results are checked is settled afterwards
            call = child.call()
            if name == "":
                guard.alone(child, tasks)
                if look or quick(call, calls[""]):
                    noises.append(timed_right(child, slot, content))
            if counts:
                calls[name].append(call)

    with steady():
        for order in rounds(runners, WARM_SECONDS, LEAST_WARM, MOST_WARM, chance):
            one_round(order, counts=False)
        for order in rounds(runners, seconds, LEAST_ROUNDS, MOST_ROUNDS, chance):
            one_round(order, counts=True)
    guard.no_helpers(candidate, helped)
    result = summed_up(calls, candidate, twin)
    result.flops, result.n_bytes = float(slot.flops(*case.args, **case.kwargs)), n_bytes
    result.roof, result.checked, result.noise = bound, len(noises), max(noises)
    guard.fair(result, REFERENCE, TWIN)
    return result


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


def timed_right(child: Sandbox, slot: Slot, content: Case) -> float:
    """Check a timed result as the proof does; its noise."""
    try:
        child.check_untouched(content)
        return check(child.copied, Standard.of(slot, content)).noise
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
        times[""] += max(0.0, float(np.median(copying[""]) - np.median(copying[REFERENCE])))
    events = [call.event for call in calls[""] if call.event is not None]
    # Each gap by itself: a kernel would work ahead in the one in which contents are written. The
    # median: a machine that stops for a moment shows up in one call.
    overtime = {
        name: max((float(np.median(u)) for u in child.overtime.values()), default=0.0)
        for name, child in (("", candidate), (REFERENCE, twin))
    }
    threads = candidate.threads
    return Race(times, each("lag"), copying, events, dense, threads, cores, overtime)
