"""What the times of a race say.

The same function takes some percent longer in one process than in another. So a second copy of the
reference runs in a process of its own. A difference no larger than between the two, or than BAND,
does not count.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...race import TOO_BUSY, ratio_interval, spread
from ..slots.base import Array
from .roof import Roof

BAND = 0.05  # ratios this close to 1 are no difference, even if two copies are closer
REFERENCE, TWIN = "reference", "second copy"


@dataclass
class Race:
    """Times of one case, in seconds, less those of an empty call. The candidate's name is ""."""

    times: dict[str, Array]  # contestant -> one for each round
    lag: dict[str, Array]  # from "returned" to being asleep
    copying: dict[str, Array]  # processor time of copying the result
    events: list[float]  # the candidate's on a GPU
    dense: bool = True  # the candidate's results are contiguous
    threads: int = 1  # asked for
    cores: dict[str, float] = field(default_factory=dict)  # kept at work; NaN if unknown
    overtime: dict[str, float] = field(default_factory=dict)  # seconds a call, used out of turn
    flops: float = 0.0
    n_bytes: float = 0.0
    roof: Roof = field(default_factory=lambda: Roof(0, 0))  # zero where it is not measured
    checked: int = 0  # how many of the candidate's results were checked
    noise: float = float("nan")  # of the worst of them

    def median(self, who: str) -> float:
        return float(np.median(self.times[who]))

    def spread(self, who: str, what: str = "times") -> tuple[float, float]:
        """The 20th and the 80th percentile of "times", "lag" or "copying"."""
        return spread(getattr(self, what)[who])

    def starved(self) -> bool:
        """Whether the rivals were kept from the processor, and the candidate was not.

        On a busy machine that may be chance: long calls are interrupted more often than short ones.
        """
        rivals = (self.cores.get(name, 1.0) for name in (REFERENCE, TWIN))
        return min(rivals) < 0.6 * min(1.0, self.cores.get("", 1.0))

    def least(self) -> float:
        """The seconds that the roof allows; NaN if it was not measured."""
        known = self.roof.bandwidth
        return self.roof.seconds(self.flops, self.n_bytes) if known else float("nan")

    def of_roof(self) -> float:
        """Share of what the roof allows: 1 is as fast as the machine can be."""
        return self.least() / max(self.median(""), 1e-9)

    def band(self) -> float:
        """The largest log ratio that does not count as a difference."""
        low, high = self.log_ratio(REFERENCE, TWIN)
        return max(float(np.log1p(BAND)), abs(low), abs(high))

    def unclear(self) -> str:
        """Why these times say nothing, in words; empty if they do say something."""
        if not all(self.spread(who)[0] > 0 for who in ("", REFERENCE, TWIN)):
            return "calls took no longer than an empty call did"
        if not self.band() <= np.log(TOO_BUSY):
            return f"two copies of the same function may differ by more than {TOO_BUSY:g} x"
        return ""

    def ratio(self, rival: str) -> tuple[float, bool]:
        """Rival's time over the kernel's - above 1 the kernel is faster - and whether it counts."""
        low, high = self.log_ratio(rival, "")
        ratio = self.median(rival) / max(self.median(""), 1e-9)
        return ratio, low > self.band() or high < -self.band()

    def log_ratio(self, a: str, b: str) -> tuple[float, float]:
        """99 % interval of log(median(a) / median(b))."""
        low, high = ratio_interval(self.times[a], self.times[b], 0.99)
        return float(np.log(low)), float(np.log(high))
