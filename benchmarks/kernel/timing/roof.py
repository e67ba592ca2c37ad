"""What this machine can do at most, by copying and by multiplying."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..sandbox.parent import Sandbox
from ..slots.inputs import Case

RATES = "rates"  # the function that measures a device in a worker of ours
KINDS = ("copy", "float32", "TF32", "bfloat16", "float16")  # in its result


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


def measured(device: str) -> Tensor:
    """A device's rate of each of KINDS: bytes of a copy a second, and operations of products.

    Runs in a worker. Where there is no GPU, the sizes are small.
    """
    gpu = device != "cpu"
    wait = torch.cuda.synchronize if gpu else lambda: None

    def seconds(function: Callable[[], object]) -> float:
        return best(lambda: (function(), wait()), 0.2 if gpu else 0.02)

    x = torch.ones(1 << (27 if gpu else 20), device=device)
    y, n = torch.empty_like(x), 8192 if gpu else 128
    rates = [2 * x.nbytes / seconds(lambda: y.copy_(x))]
    for kind in KINDS[1:]:
        dtype = torch.float32 if kind == "TF32" else getattr(torch, kind)
        a = torch.randn(n, n, device=device).to(dtype)
        torch.backends.cuda.matmul.allow_tf32 = kind == "TF32"
        # (mypy: it cannot infer the type of a lambda with a default.)
        rates.append(2.0 * n**3 / seconds(lambda a=a: a @ a))  # type: ignore[misc]
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.tensor(rates, device=device)


def device_rates(worker: Sandbox) -> dict[str, float]:
    """What a worker of ours measures of its device, once."""
    gpu: dict[str, Any] = worker.loaded["gpu"]
    if "rates" not in gpu:
        case = Case("rates", ())
        worker.case(case, [torch.zeros(len(KINDS))], RATES)
        worker.write(case)
        worker.call()
        gpu["rates"] = dict(zip(KINDS, worker.copied[0].tolist(), strict=True))
    rates: dict[str, float] = gpu["rates"]
    return rates


def device_roof(worker: Sandbox, dtype: torch.dtype) -> Roof:
    """The roof of a device, for a kernel of this type.

    TF32 counts for float32 too. A plain TF32 product is too rough to pass, but three of them, or of
    16-bit numbers, are as exact as a float32 one, and quicker than that.
    """
    rates = device_rates(worker)
    wide = dtype == torch.float32
    kinds = ("float32", "TF32") if wide else ("float32", "bfloat16", "float16")
    return Roof(rates["copy"], max(rates[kind] for kind in kinds))


def best(function: Callable[[], object], seconds: float) -> float:
    function()
    least, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        function()
        least = min(least, time.perf_counter() - start)
    return least
