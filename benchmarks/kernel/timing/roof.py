"""The machine: its roof, who else uses it, and what is installed on it."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

import melfront

from ..sandbox.parent import Child, Refused
from ..sandbox.processes import processor_time

BUSY = 0.15  # of the processors, used by others


@dataclass
class Roof:
    """What this machine can do, measured in the same run; zero if not measured."""

    bandwidth: float  # bytes read and written a second, copying
    rate: float  # floating-point operations a second, in a matrix product

    def seconds(self, flops: float, n_bytes: float) -> float:
        return max(n_bytes / self.bandwidth, flops / self.rate)


_roofs: dict[tuple[int, torch.dtype, int], Roof] = {}


def roof(n_bytes: float, dtype: torch.dtype, threads: int) -> Roof:
    """The best of some copies of about as many bytes, and of some matrix products, on every core.

    Measured on one core and multiplied: no thread waits for another, so that a busy machine does
    not lower it, and it is at least what all of them reach together.
    """
    size = 1 << max(16, min(28, int(np.ceil(np.log2(max(n_bytes, 1))))))
    if (size, dtype, threads) not in _roofs:
        source = np.ones(size // 8, dtype=np.float32)
        target = np.empty_like(source)
        copies = best(lambda: np.copyto(target, source), 0.15)
        known = [r.rate for (_, t, n), r in _roofs.items() if (t, n) == (dtype, threads)]
        # Where 16 bits are emulated a kernel may well widen them.
        kinds = {dtype, torch.float32}
        rate = known[0] if known else max(map(product_rate, kinds)) * threads
        _roofs[size, dtype, threads] = Roof(2 * source.nbytes / copies * threads, rate)
    return _roofs[size, dtype, threads]


def product_rate(dtype: torch.dtype, n: int = 384) -> float:
    """Operations a second in a product of two n x n matrices on one core."""
    a, before = torch.randn(n, n).to(dtype), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return 2.0 * n**3 / best(lambda: a @ a, 0.3)
    finally:
        torch.set_num_threads(before)


def best(function: Callable[[], object], seconds: float) -> float:
    function()
    least, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        function()
        least = min(least, time.perf_counter() - start)
    return least


def same_chances(candidate: Child, others: list[Child]) -> None:
    """Refuse a candidate that has given itself more of the processor than others, or them less."""
    if not hasattr(os, "sched_getaffinity"):
        return
    mine = (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0), os.sched_getscheduler(0))
    for child in (candidate, *others):
        pid = child.pid
        theirs = (
            os.getpriority(os.PRIO_PROCESS, pid),
            os.sched_getaffinity(pid),
            os.sched_getscheduler(pid),
        )
        if theirs != mine and (child is not candidate or theirs[0] < mine[0] or theirs[2]):
            whose = "its own" if child is candidate else "its rivals'"
            raise Refused("TAMPERED", f"changes {whose} priority or processors")


class Load:
    """How much of the machine others use, from now until asked."""

    def __init__(self, children: list[Child]) -> None:
        self.children = children
        self.start = self.now()
        self.began = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0

    def now(self) -> tuple[float, float, float, float]:
        """Seconds of wall time, of processors at work, of processors stolen, and of our own."""
        ours = sum(os.times()[:2]) + sum(processor_time(c.pid) for c in self.children if c.pid)
        busy = stolen = float("nan")
        if sys.platform.startswith("linux"):
            ticks = [int(t) for t in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
            hertz = os.sysconf("SC_CLK_TCK")
            user, nice, system, _idle, _wait, irq, soft, steal = ticks
            busy, stolen = (user + nice + system + irq + soft) / hertz, steal / hertz
        return time.perf_counter(), busy, stolen, ours

    def others(self) -> float:
        """Share of the processors that went to others, or was stolen by other machines; 0 .. 1."""
        wall, busy, stolen, ours = (b - a for a, b in zip(self.start, self.now(), strict=True))
        if busy != busy or wall < 0.05:
            return self.began / (os.cpu_count() or 1)  # what was there before we began
        return max(0.0, (busy - ours + stolen) / wall / (os.cpu_count() or 1))

    def warning(self) -> str:
        """A line if the machine is too busy for a time to mean anything, else nothing."""
        share = self.others()
        if share <= BUSY:
            return ""
        return (
            f"the machine is busy: others used {share:.0%} of its processors meanwhile. "
            "The times mean little, and nothing is recorded"
        )


def machine() -> dict[str, Any]:
    """What the times depend on."""
    name = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "gpu": gpu,
        "system": platform.platform(),
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def pools(threads: int) -> list[dict[str, Any]]:
    """The thread pools of NumPy's and torch's libraries, where threadpoolctl can tell."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return [{"asked": threads}]
    return [
        {k: p.get(k) for k in ("user_api", "internal_api", "version", "num_threads")}
        for p in threadpool_info()
    ]


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "melfront": melfront.__version__}
    for name in ("numpy", "scipy", "torch", "numba", "triton"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
