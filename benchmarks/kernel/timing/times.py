"""What the times of a race say.

The same function takes some percent longer in one process than in another. So a second copy of the
reference runs in a process of its own, and "reference" is the mean of both in each round. A
difference no larger than between the two, or than BAND, does not count; nor does one that may be
chance.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...race import TOO_BUSY, ratio_interval, spread
from ..slots.base import Array
from .roof import Roof

SAME_CLOCK = 0.1  # a GPU whose clocks differ by more gives the contestants unequal chances
BAND = 0.05  # ratios this close to 1 are no difference, even if two copies are closer
ALLOWANCE = 1.25  # how much faster than its roof a kernel may seem
REFERENCE, TWIN = "reference", "second copy"


@dataclass
class Race:
    """Times of one case, in seconds, less those of an empty call. The candidate's name is ""."""

    times: dict[str, Array]  # contestant -> one for each round
    lag: dict[str, Array]  # from "returned" to being asleep
    copying: dict[str, Array]  # processor time of copying the result
    events: list[float]  # of the candidate's calls by the GPU's default stream
    dense: bool = True  # the candidate's results are contiguous
    threads: int = 1  # asked for
    cores: dict[str, float] = field(default_factory=dict)  # kept at work; NaN if unknown
    most_cores: float = float("nan")  # of the candidate's, in all calls but a fifth
    # Seconds of processor time between two calls, by what came next, in all rounds but a fifth.
    overtime: dict[str, dict[str, float]] = field(default_factory=dict)
    flops: float = 0.0
    n_bytes: float = 0.0
    roof: Roof = field(default_factory=lambda: Roof(0, 0))  # zero where it is not measured
    checked: int = 0  # how many of the candidate's results were checked
    noise: float = float("nan")  # of the worst of them
    prepare: float = float("nan")  # seconds for each set of weights, outside of all times
    busy: str = ""  # how much others used of the machine, in words, if it was too much
    others: str = ""  # who else was at work all the time, in words
    # On a device:
    copies: int = 1  # of the case, whose calls were timed together
    cached: float = 0.0  # bytes of a copy that may stay in the device's cache
    clocks: dict[str, list[float]] = field(default_factory=dict)  # MHz in each call; NaN if unknown
    settling: dict[str, list[float]] = field(default_factory=dict)  # seconds, after rivals' calls

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
        return min(rivals) < 0.85 * min(1.0, self.cores.get("", 1.0))

    def least(self) -> float:
        """The seconds that no kernel takes less than; NaN if the roof was not measured."""
        known = self.roof.bandwidth
        n_bytes = max(0.0, self.n_bytes - self.cached)
        return self.roof.seconds(self.flops, n_bytes) if known else float("nan")

    def of_roof(self) -> float:
        """Share of what the roof allows: 1 is as fast as the machine can be."""
        return self.least() / max(self.median(""), 1e-9)

    def too_fast(self, seconds: float) -> bool:
        """Whether this machine cannot do it in so little time; False if the roof is unknown."""
        return seconds < self.least() / ALLOWANCE

    def band(self) -> float:
        """The largest log ratio that does not count, though it is no chance.

        Seen from the middle of the two copies: what is as near to one of them as they are to one
        another is no further away than one and a half times that.
        """
        return max(float(np.log1p(BAND)), 1.5 * abs(self.log_ratio(REFERENCE, TWIN)[1]))

    def unclear(self) -> str:
        """Why these times say nothing, in words; empty if they do say something."""
        if self.busy:
            return "others use its processors"
        if not all(self.spread(who)[0] > 0 for who in ("", REFERENCE, TWIN)):
            return "calls took no longer than an empty call did"
        if self.too_fast(self.median("")):  # but not most calls: that is refused
            return "half of the calls seem to take less time than this machine can"
        mine, others = self.clock(""), self.clock(REFERENCE)
        if abs(mine - others) > SAME_CLOCK * max(mine, others):  # False where they are unknown
            return (
                f"the GPU ran at {mine:.0f} MHz for the kernel and {others:.0f} for the reference"
            )
        low, _, high = self.log_ratio(REFERENCE, TWIN)
        if not max(abs(low), abs(high)) <= np.log(TOO_BUSY):
            return f"two copies of the same function may differ by more than {TOO_BUSY:g} x"
        return ""

    def by_events(self) -> float:
        """The 80th percentile of the events; NaN without any."""
        return spread(self.events)[1] if self.events else float("nan")

    def clock(self, who: str) -> float:
        """MHz of the GPU in the middle of a contestant's calls; NaN if unknown."""
        return float(np.median(self.clocks.get(who) or [float("nan")]))

    def ratio(self, rival: str) -> tuple[float, bool]:
        """Rival's time over the kernel's - above 1 the kernel is faster - and whether it counts."""
        low, middle, high = self.log_ratio(rival, "")
        return float(np.exp(middle)), low > self.band() or high < -self.band()

    def least_difference(self, rival: str) -> float:
        """The log ratio to a rival that would count in these rounds."""
        low, _, high = self.log_ratio(rival, "")
        return self.band() + (high - low) / 2

    def log_ratio(self, a: str, b: str) -> tuple[float, float, float]:
        """log(a / b) between the ends of its 99 % interval."""
        low, middle, high = np.log(ratio_interval(self.rounds(a, b), self.rounds(b, a), 0.99))
        return float(low), float(middle), float(high)

    def rounds(self, who: str, against: str) -> Array:
        """A contestant's times to be held against another's: the reference's are of both copies."""
        if who == REFERENCE and against != TWIN:
            return np.sqrt(self.times[REFERENCE] * self.times[TWIN])
        return self.times[who]
