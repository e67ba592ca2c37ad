"""Finds lines of our own source, so that the page quotes today's code and line numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


AROUND = 8  # lines before and after


class Line(NamedTuple):
    file: str  # such as melfront/oracle.py
    number: int
    function: str
    text: str
    around: list[tuple[int, str]]  # the lines of the file around it, with their numbers


def line(function: Callable[..., Any], part: str) -> Line:
    """The one line of a function that holds `part`. Raises LookupError if not just one does."""
    function = inspect.unwrap(function)
    lines, first = inspect.getsourcelines(function)
    found = [i for i, text in enumerate(lines) if part in text]
    if len(found) != 1:
        raise LookupError(f"{len(found)} lines of {function.__qualname__} hold {part!r}, not one")
    file = Path(inspect.getfile(function))
    number = first + found[0]
    every = enumerate(file.read_text("utf-8").splitlines(), 1)
    around = [(n, text) for n, text in every if abs(n - number) <= AROUND]
    name = file.relative_to(ROOT).as_posix()
    return Line(name, number, function.__name__, lines[found[0]].strip(), around)
