"""Finds lines of our own source, so that the page quotes today's code and line numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


class Line(NamedTuple):
    file: str  # such as melfront/oracle.py
    number: int
    function: str
    text: str


def line(function: Callable[..., Any], part: str) -> Line:
    """The one line of a function that holds `part`. Raises LookupError if not just one does."""
    function = inspect.unwrap(function)
    lines, first = inspect.getsourcelines(function)
    found = [i for i, text in enumerate(lines) if part in text]
    if len(found) != 1:
        raise LookupError(f"{len(found)} lines of {function.__qualname__} hold {part!r}, not one")
    file = Path(inspect.getfile(function)).relative_to(ROOT).as_posix()
    return Line(file, first + found[0], function.__name__, lines[found[0]].strip())
