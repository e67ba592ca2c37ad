"""What compilers do in the child: Triton's interpreter, and torch.compile.

Only the standard library is imported here: this runs in the process that the kernel is loaded into.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

# Shapes and layouts that torch.compile compiles a function for, before it runs it uncompiled: its
# own 8 are fewer than a slot has cases, and what is proved is to be what is timed.
RECOMPILES = 64


def prepare(device: str) -> None:
    """Before the kernel is loaded: how its compilers have to go to work here."""
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # Triton has no other way to run on a CPU
    # In the process itself: its workers would live on, and no helper may while a kernel is timed.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"


def compiled() -> bool:
    """Whether the kernel has called torch.compile, which then may compile every new shape."""
    if "torch._dynamo" not in sys.modules:
        return False
    config = sys.modules["torch._dynamo"].config
    if config.recompile_limit < RECOMPILES:
        config.recompile_limit = RECOMPILES
    return True


def watch_interpreter() -> dict[str, bool]:
    """The kernel's functions for Triton's interpreter: name -> whether it has run, kept up to date.

    torch.compile imports Triton too, and both have functions for Triton of their own.
    """
    seen: dict[str, bool] = {}
    if "triton.runtime.interpreter" in sys.modules:
        kind = sys.modules["triton.runtime.interpreter"].InterpretedFunction
        for found in gc.get_objects():
            if type(found) is kind and found.fn.__module__.split(".")[0] not in ("triton", "torch"):
                watch(found, seen)
    return seen


def watch(function: Any, seen: dict[str, bool]) -> None:
    name, run = function.fn.__name__, function.run
    seen[name] = False

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen[name] = True
        return run(*args, **kwargs)

    function.run = watched
