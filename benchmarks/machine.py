"""The machine and the software that times depend on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import melfront
from melfront.parity.pages.libraries import version


def machine() -> dict[str, Any]:
    """Its processor, cores, GPU, system and load."""
    import torch  # takes seconds, and the --help of a command needs none of it

    info = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: *(.*)", info.read_text(), re.M) if info.exists() else None
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def processors() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def pools(threads: int) -> list[dict[str, Any]]:
    """The thread pools of NumPy's and torch's libraries, if threadpoolctl is installed."""
    if not installed("threadpoolctl"):
        return [{"asked": threads}]
    from threadpoolctl import threadpool_info

    return [
        {k: p.get(k) for k in ("user_api", "internal_api", "version", "num_threads")}
        for p in threadpool_info()
    ]


def versions() -> dict[str, str]:
    """Of Python, of this project, and of the libraries that kernels are written with."""
    libraries = ("numpy", "scipy", "torch", "numba", "triton", "jax", "cffi")
    found = {name: version(name) for name in libraries}
    here = {"python": platform.python_version(), "melfront": melfront.__version__}
    return here | {name: number for name, number in found.items() if number}


def versions_of(*packages: str) -> dict[str, str]:
    """Of these packages, or "not installed"."""
    return {package: version(package) or "not installed" for package in packages}


def installed(*packages: str) -> bool:
    return all(map(version, packages))
