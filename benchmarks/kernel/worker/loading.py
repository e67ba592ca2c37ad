"""A kernel's file, loaded. Imports the standard library alone."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from ..reasons import Refused


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


class Candidate(NamedTuple):
    """What a kernel's file has."""

    function: Callable[..., Any]
    arrays: str  # that it wants: "torch" or "numpy"
    takes_out: bool  # fills a parameter `out`
    prepare: Callable[..., Any] | None  # of the weights, to what the function gets in their place
    shapes: dict[str, list[int]]  # the sizes that it is for, by letter; none: all


def load(path: str, slot: str, weights: int) -> Candidate:
    """The kernel of that name in a file, for a slot with so many weights.

    Raises Refused for a file that cannot be loaded, has no such function, or a wrong declaration.
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
    prepare = getattr(module, "prepare", None)
    if prepare is not None and not weights:
        raise Refused("SIGNATURE", f"defines prepare, and {slot} has no weights; rename it")
    if prepare is not None and not callable(prepare):
        raise Refused("SIGNATURE", f"prepare is {short(prepare)}, expected a function of weights")
    return Candidate(function, arrays, takes_out, prepare, declared(module))


def declared(module: ModuleType) -> dict[str, list[int]]:
    """The SHAPES of a kernel's file, each a list of sizes. Raises Refused."""
    given = getattr(module, "SHAPES", {})
    several = {
        letter: list(sizes) if type(sizes) in (tuple, list) else [sizes]
        for letter, sizes in (given.items() if type(given) is dict else ())
    }
    right = type(given) is dict and all(
        type(letter) is str and sizes and all(type(n) is int and n > 0 for n in sizes)
        for letter, sizes in several.items()
    )
    if not right:
        example = '{"T": 1500, "D": (64, 80)}'
        raise Refused("SIGNATURE", f"SHAPES is {short(given)}, expected sizes such as {example}")
    return several


def short(value: Any) -> str:
    """A value in one line."""
    return " ".join(repr(value).split())[:80]


def check_call(
    function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], slot: str
) -> None:
    """Refuse a function that cannot be called so; slot: how it is called, in words."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise Refused("SIGNATURE", f"{error}; the slot is {slot}") from None
    except ValueError:
        pass  # compiled code has no signature


def raised(error: BaseException) -> Refused:
    """The refusal of a kernel that raises this when it is called."""
    code = "EXIT" if isinstance(error, SystemExit) else "RAISED"
    if isinstance(error, ValueError) and "read-only" in str(error):
        code = "MUTATED"
    return Refused(code, first_line(error))


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
