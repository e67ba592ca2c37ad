"""What the driver says of a GPU's clocks, by NVML, which comes with it."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

CLOCK_SM = 1  # nvmlClockType_t


@lru_cache
def opened(bus: str) -> tuple[Any, ctypes.c_void_p] | None:
    """NVML and its handle of the GPU on that PCI bus; None where there is no such thing."""
    try:
        library, handle = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
        failed = library.nvmlInit_v2() or library.nvmlDeviceGetHandleByPciBusId_v2(
            bus.encode(), ctypes.byref(handle)
        )
    except (OSError, AttributeError):
        return None
    return None if failed else (library, handle)


def sm_clock(bus: str) -> float:
    """MHz of the multiprocessors now; NaN if unknown."""
    known = opened(bus)
    if known is None:
        return float("nan")
    library, handle = known
    mhz = ctypes.c_uint()
    failed = library.nvmlDeviceGetClockInfo(handle, CLOCK_SM, ctypes.byref(mhz))
    return float("nan") if failed else float(mhz.value)
