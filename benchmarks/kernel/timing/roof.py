"""What this machine can do at most, by copying and by multiplying."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class Roof:
    """What this machine can do, measured in the same run; zeros if it was not measured."""

    bandwidth: float  # bytes read and written a second, copying
    rate: float  # floating-point operations a second, in a matrix product

    def seconds(self, flops: float, n_bytes: float) -> float:
        return max(n_bytes / self.bandwidth, flops / self.rate)


_roofs: dict[tuple[int, torch.dtype, int], Roof] = {}


def roof(n_bytes: float, dtype: torch.dtype, threads: int) -> Roof:
    """The best of some copies of about as many bytes, and of some matrix products, on all cores.

    Measured on one core and multiplied: no thread waits for another, so a busy machine does not
    lower it, and the cores together reach no more.
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
