"""A kernel's file, loaded. Imports the standard library alone."""

from __future__ import annotations

import importlib.util
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
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    try:
        with open(path, "rb") as file:
            compile(file.read(), path, "exec")
    except SyntaxError as error:
        raise Refused("SYNTAX", f"line {error.lineno}: {error.msg}") from None
    except (OSError, ValueError) as error:
        raise Refused("SYNTAX", first_line(error)) from None
    name = f"candidate_{os.path.splitext(os.path.basename(path))[0]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Refused("SYNTAX", f"{path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        raise Refused("IMPORT", f"raises {first_line(error)} when it is loaded") from None
    return module
