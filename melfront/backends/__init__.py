"""What computes the features fast: numba, NumPy, torch on any device. Held to `oracle.py`."""

from __future__ import annotations

import os
from functools import lru_cache
from types import ModuleType


@lru_cache
def for_a_cpu() -> ModuleType:
    """The backend for arrays: numba's where numba can be imported and may compile, or NumPy's."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") == "0":
        try:
            from . import numba_backend

            return numba_backend
        except ImportError:  # not installed, or not for this NumPy
            pass
    from . import numpy_backend

    return numpy_backend
