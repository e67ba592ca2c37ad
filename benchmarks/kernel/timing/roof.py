"""What this machine can do at most, by copying and by multiplying."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch


@dataclass
class Roof:
    """What this machine can do, measured in the same run; zeros if it was not measured."""

    bandwidth: float  # bytes read and written a second, copying
    rate: float  # floating-point operations a second, in a matrix product

    def seconds(self, flops: float, n_bytes: float) -> float:
        return max(n_bytes / self.bandwidth, flops / self.rate)


def roof(n_bytes: float, dtype: torch.dtype, threads: int) -> Roof:
    """The best of some copies of about as many bytes, and of some matrix products, on all cores.

    Measured on one core and multiplied: no thread waits for another, so a busy machine does not
    lower it, and the cores together reach no more.
    """
    size = 1 << max(16, min(28, int(np.ceil(np.log2(max(n_bytes, 1))))))
    # Where 16 bits are emulated a kernel may well widen them.
    rate = max(map(product_rate, {dtype, torch.float32}))
    return Roof(copy_rate(size) * threads, rate * threads)


@lru_cache
def copy_rate(size: int) -> float:
    """Bytes read and written a second on one core, in copies that read and write so many."""
    source = np.ones(size // 8, dtype=np.float32)
    target = np.empty_like(source)
    return 2 * source.nbytes / best(lambda: np.copyto(target, source), 0.15)


@lru_cache
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
