"""How many copies of a case one order has a device call.

A kernel of a microsecond does not show beside an order and its answer, which take some fifty. So
one order calls many copies, with contents of their own at addresses of their own: their time
together is long, and what they read is not in the device's cache.
"""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING

from .process import MEMORY

if TYPE_CHECKING:
    from torch import Tensor

    from ..slots.inputs import Case, Dice
    from .parent import Sandbox

LONG = 1.2e-3  # seconds that an order should take
CACHES = 4  # the copies are so many times as large as the L2 cache
LEAST, MOST = 2, 256
ROOM, SHARE = 1 << 30, 1 / 8  # bytes of all copies, and of what memory is free


def most(child: Sandbox, n_bytes: float) -> int:
    """How many copies there is memory for, of so many bytes each."""
    free = min(child.loaded["gpu"]["free"], shutil.disk_usage(MEMORY).free)
    return max(LEAST, min(MOST, int(min(ROOM, SHARE * free) / n_bytes)))


def enough(
    runners: list[tuple[Sandbox, str]], case: Case, outs: list[Tensor], dice: Dice, n_bytes: float
) -> int:
    """How many copies exceed the cache, and take each of these workers' functions long enough."""
    limit = min(most(child, n_bytes) for child, _ in runners)
    l2 = runners[0][0].loaded["gpu"]["l2"]
    copies = min(limit, max(LEAST, math.ceil(CACHES * l2 / n_bytes)))
    contents = [dice.vary(case) for _ in range(copies)]
    times = []
    for child, function in runners:
        child.case(case, outs, function, copies=copies)
        for _ in range(2):  # the first warms up
            child.write(*contents)
            time = child.call().time
        times.append(time)
    return min(limit, max(copies, math.ceil(LONG / min(times))))
