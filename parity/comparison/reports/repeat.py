"""The line with which somebody else gets the same report: a command, or a call."""

from __future__ import annotations

import argparse
import inspect
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

OUTPUTS = (
    "json",
    "plot",
)  # of the options: they change where the report goes, and not what it says


def as_command(prog: str, parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """The command line that gave these options, without those that are as by default."""
    words = prog.split()
    named = []
    for action in parser._actions:
        value = getattr(options, action.dest, None)
        if value is None and action.default not in (None, argparse.SUPPRESS):
            value = "none"  # as in --pad-to none
        elif value is None or value == action.default or action.dest in OUTPUTS:
            continue
        values = value if isinstance(value, list) else [value]
        if not action.option_strings:
            words += map(str, values)
        elif action.nargs == 0:
            named.append(action.option_strings[-1])
        else:
            # Several values would take the positional arguments too, so options come last.
            named += [action.option_strings[-1], *(written(v) for v in values)]
    return shlex.join([*words, *named])


def written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_call(name: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """The call of a function with these arguments, without those that are as by default."""
    words = []
    for key, parameter in inspect.signature(function).parameters.items():
        value = arguments.get(key, parameter.default)
        if value is parameter.default or (isinstance(value, str) and value == parameter.default):
            continue
        by_name = parameter.kind is parameter.KEYWORD_ONLY
        words.append(f"{key}={short(value)}" if by_name else short(value))
    return f"{name}({', '.join(words)})"


def short(value: Any) -> str:
    """A value as Python writes it; an array or another object by what it is."""
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, (str, bool, int, float)) or value is None:
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {short(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)) and len(value) <= 8:
        return "[" + ", ".join(map(short, value)) + "]"
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f"{tuple(shape)}" if shape is not None else "")
