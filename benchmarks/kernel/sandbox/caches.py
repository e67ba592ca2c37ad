"""Does a kernel keep its answers? Repeated contents must take it as long as new ones.

No timed input comes twice, so a cache gains nothing there, but a kernel with a cache computes less
than it seems to wherever inputs repeat. The time that it saves gives it away, or the memory that
its answers take.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from ..reasons import Refused
from ..slots.base import least_bytes
from .copies import most

if TYPE_CHECKING:
    from torch import Tensor

    from ..slots.inputs import Case, Dice
    from .parent import Sandbox

COPIES = 16  # of a case on a device, each content four times when contents repeat


def replay(child: Sandbox, case: Case, outs: list[Tensor], dice: Dice, pairs: int) -> list[float]:
    """Refuse a kernel that keeps its answers; returns the times of these calls, in seconds."""
    if child.device != "cpu":
        return replay_on_a_device(child, case, outs, dice, pairs)
    child.case(case, outs)
    # What it keeps with the weights that it has prepared must show: they stay the same.
    made = [dice.vary(case, weights=not child.prepares) for _ in range(pairs + 2)]
    times: list[float] = []

    def spent(content: Case) -> float:
        """Processor time of a call; by our clock where it is unknown."""
        child.write(content)
        call = child.call()
        times.append(call.time)
        return call.working if call.working == call.working else call.time

    child.look = False
    new, again = [spent(made[0]), spent(made[1])], []
    for i in range(pairs):
        new.append(spent(made[i + 2]))
        if i == 3:
            memory = child.memory()
        again.append(spent(made[i]))
    child.look = True
    no_hoard(child.memory() - memory if memory else 0, pairs - 4, outs)
    no_gain(new[3:], again[1:])  # once it is warm
    return times


def replay_on_a_device(
    child: Sandbox, case: Case, outs: list[Tensor], dice: Dice, pairs: int
) -> list[float]:
    """The same by the clock, and within one order: a device uses no processor time.

    All copies of a case have contents of their own, or a quarter of them, again and again.
    """
    copies = min(COPIES, most(child, least_bytes(case, outs)))
    apart = max(1, copies // 4)
    child.case(case, outs, copies=copies)
    times: list[float] = []
    child.look = False
    for i in range(pairs):
        for fresh in (copies, apart):
            made = [dice.vary(case, weights=not child.prepares) for _ in range(fresh)]
            child.write(*(made[n % fresh] for n in range(copies)))
            times.append(child.call().time)
        if i == 3:
            free = child.settle()[1]
    child.look = True
    no_hoard(free - child.settle()[1], (pairs - 4) * (copies + apart), outs)
    no_gain(times[2::2], times[3::2])
    return times


def no_gain(new: list[float], again: list[float]) -> None:
    """Refuse a kernel that repeats take much less time than new contents."""
    new, again = sorted(new), sorted(again)
    typical, repeated = statistics.median(new), statistics.median(again)
    # Not the medians alone: all but one of the repeats must be below all but one of the new ones.
    if repeated < 0.6 * typical and again[-2] < new[1]:
        raise Refused(
            "CACHE",
            f"an input that came before takes {1e3 * repeated:.2f} ms, "
            f"a new one {1e3 * typical:.2f} ms: it keeps its answers",
        )


def no_hoard(grown: int, inputs: int, outs: list[Tensor]) -> None:
    """Refuse memory that grows by at least half an answer with each new input."""
    answer = sum(o.numel() * o.element_size() for o in outs)
    if grown > max(0.5 * inputs * answer, 8 << 20):
        raise Refused(
            "CACHE",
            f"its memory grows by {grown / inputs / 1e6:.1f} MB with every new "
            f"input, and an answer takes {answer / 1e6:.1f} MB: it keeps them",
        )
