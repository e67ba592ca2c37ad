"""How much of the machine others use while kernels are timed."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from ..sandbox.parent import Sandbox
from ..sandbox.processes import processor_time

BUSY = 0.15  # of the processors, used by others


class Load:
    """How much of the machine others use, from now until asked."""

    def __init__(self, children: list[Sandbox]) -> None:
        self.children = children
        self.start = self.now()
        self.began = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0

    def now(self) -> tuple[float, float]:
        """Seconds of wall time, and of processor time that others used or stole; NaN if unknown."""
        ours = sum(os.times()[:2]) + sum(processor_time(c.pid) for c in self.children if c.pid)
        busy = float("nan")
        if sys.platform.startswith("linux"):
            ticks = [int(t) for t in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
            _user, _nice, _system, idle, wait, _irq, _soft, _steal = ticks
            busy = (sum(ticks) - idle - wait) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy - ours

    def others(self) -> float:
        """Share of the processors that others used, or other machines stole; 0 .. 1."""
        wall, used = (b - a for a, b in zip(self.start, self.now(), strict=True))
        if used != used or wall < 0.05:
            return self.began / (os.cpu_count() or 1)  # the load before we began
        return max(0.0, used / wall / (os.cpu_count() or 1))

    def busy(self) -> str:
        """In words what others used, if it is too much for times to mean anything."""
        share = self.others()
        return f"others used {share:.0%} of the processors" if share > BUSY else ""
