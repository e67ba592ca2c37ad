"""The machine and the software that times depend on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import melfront


def machine() -> dict[str, Any]:
    """Its processor, cores, GPU, system and load."""
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
    """The thread pools of NumPy's and torch's libraries, if threadpoolctl is installed."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return [{"asked": threads}]
    return [
        {k: p.get(k) for k in ("user_api", "internal_api", "version", "num_threads")}
        for p in threadpool_info()
    ]


def versions() -> dict[str, str]:
    """Of Python, of this project, and of the libraries that kernels are written with."""
    found = {"python": platform.python_version(), "melfront": melfront.__version__}
    for name in ("numpy", "scipy", "torch", "numba", "triton"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
