"""Rows, written as they are measured, and how a call on a GPU is timed."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from melfront.backends.cuda_graph import N_WARM_UP
from melfront.command import replacing

from ..race import rounds

Calls = dict[str, Callable[[], Tensor]]


@dataclass
class Rows:
    """What was measured so far: printed, and written to gpu.json, row by row."""

    device: torch.device
    file: Path
    minutes: float
    only: Collection[str] = ()  # parts that are wanted; none: all
    start: float = field(default_factory=time.perf_counter)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def add(self, part: str, **row: Any) -> None:
        at = round(time.perf_counter() - self.start, 1)
        self.rows.append({"part": part, "at": at, **row})
        with replacing(self.file) as temporary:
            temporary.write_text(json.dumps(self.rows, indent=1), encoding="utf-8")
        values = (f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items())
        print(f"{at:6.1f} s  {part:9}", *values, flush=True)

    def wants(self, *parts: str) -> bool:
        """Whether one of these parts is wanted."""
        return not self.only or not set(parts).isdisjoint(self.only)

    def part(self, name: str, work: Callable[[], object], seconds: float = 10.0) -> None:
        """Do work that is wanted and thought to take this long. What it raises becomes a row."""
        if not self.wants(name):
            return
        if time.perf_counter() - self.start + seconds > 60 * self.minutes:
            self.add(name, skipped=f"no {seconds:g} s left of --minutes {self.minutes:g}")
            return
        try:
            work()
        except Exception as error:
            traceback.print_exc()
            self.add(name, failed=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def times(self, calls: Calls, seconds: float) -> dict[str, tuple[float, float]]:
        """Milliseconds of one call with its wait, and of a call among many; medians of rounds.

        The contestants take turns, so that a clock that drifts drifts for all.
        """
        count: dict[str, int] = {}
        for name, call in calls.items():
            for _ in range(N_WARM_UP if self.on_gpu else 1):
                call()
            count[name] = max(2, min(200, int(0.02 / self.clock(call, 1))))
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for order in rounds(calls, seconds, 5 if self.on_gpu else 1):
            for name in order:
                call = calls[name]
                spent[name].append((self.clock(call, 1), self.clock(call, count[name])))
        medians = {name: 1e3 * np.median(of_one, axis=0) for name, of_one in spent.items()}
        return {name: (float(one), float(among)) for name, (one, among) in medians.items()}

    def clock(self, call: Callable[[], Tensor], n: int) -> float:
        """Seconds a call, of n calls in a row and one wait."""
        self.wait()
        start = time.perf_counter()
        for _ in range(n):
            call()
        self.wait()
        return (time.perf_counter() - start) / n

    def memory(self, call: Callable[[], Tensor]) -> float:
        """GB that a call allocates at its peak, on a GPU."""
        if not self.on_gpu:
            return 0.0
        self.wait()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        self.wait()
        return (torch.cuda.max_memory_allocated() - before) / 1e9


def tf32(on: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
