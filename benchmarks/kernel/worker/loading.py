"""A kernel's file, loaded. Imports the standard library alone."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..reasons import Refused


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def load(path: str, slot: str) -> tuple[Callable[..., Any], str, bool]:
    """The function of that name in a file, the arrays it wants, and whether it fills an `out`.

    Raises Refused for a file that cannot be loaded or has no such function.
    """
    module = imported(path)
    function = getattr(module, slot, None)
    if not callable(function):
        defined = [n for n, v in vars(module).items() if inspect.isfunction(v) and n[0] != "_"]
        raise Refused(
            "MISSING",
            f"has no function {slot}; it defines {', '.join(defined) or 'none'}. The function "
            f"must bear the slot's name: `--template {slot}` shows it",
        )
    arrays = getattr(module, "ARRAYS", "torch")
    if arrays not in ("torch", "numpy"):
        raise Refused("SIGNATURE", f'ARRAYS is {arrays!r}, expected "torch" or "numpy"')
    try:
        takes_out = "out" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled code has no signature
        takes_out = False
    return function, arrays, takes_out


def imported(path: str) -> ModuleType:
    """The file as a module, with its own folder on the path. Raises Refused."""
    folder, file = os.path.split(path)
    sys.path.insert(0, folder)
    module = ModuleType(f"candidate_{file.removesuffix('.py')}")
    module.__file__ = path
    sys.modules[module.__name__] = module
    try:
        with open(path, "rb") as source:
            code = compile(source.read(), path, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise Refused("SYNTAX", f"line {error.lineno}: {error.msg}") from None
    except (OSError, ValueError) as error:
        raise Refused("SYNTAX", first_line(error)) from None
    try:
        exec(code, vars(module))
    except BaseException as error:
        raise Refused("IMPORT", f"raises {first_line(error)} when it is loaded") from None
    return module
