"""Compilers in the kernel's process: which may be at work, and settings for them.

Imports the standard library alone.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

# Shapes and layouts for which torch.compile recompiles a function before it runs it uncompiled. Its
# default of 8 is less than a slot has cases, and what is proved must be what is timed.
RECOMPILES = 64
# Modules of what compiles in the first call of new shapes or layouts.
COMPILERS = ("torch._dynamo", "numba", "jax", "triton", "cupy")


def set_environment(device: str) -> None:
    """Set what the compilers read from the environment; call it before the kernel is loaded."""
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # Triton has no other way to run on a CPU
    # Compile in the process itself: workers would live on, and none may while a kernel is timed.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"


def may_compile() -> bool:
    """Whether the first call of new shapes may compile; has torch.compile do so for all of them."""
    if "torch._dynamo" in sys.modules:
        config = sys.modules["torch._dynamo"].config
        config.recompile_limit = max(config.recompile_limit, RECOMPILES)
    return any(name in sys.modules for name in COMPILERS)


def watch_interpreter() -> dict[str, bool]:
    """The kernel's functions for Triton's interpreter: name -> whether it has run, kept up to date.

    Those of Triton itself and of torch, which torch.compile imports, are left out.
    """
    seen: dict[str, bool] = {}
    if "triton.runtime.interpreter" in sys.modules:
        kind = sys.modules["triton.runtime.interpreter"].InterpretedFunction
        for found in gc.get_objects():
            if type(found) is kind and found.fn.__module__.split(".")[0] not in ("triton", "torch"):
                watch(found, seen)
    return seen


def watch(function: Any, seen: dict[str, bool]) -> None:
    """Note in `seen` when this function runs."""
    name, run = function.fn.__name__, function.run
    seen[name] = False

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen[name] = True
        return run(*args, **kwargs)

    function.run = watched
