"""Lines that fit a terminal."""

from __future__ import annotations

import re
import shutil
import textwrap
from functools import partial
from typing import Any, TextIO

INDENT = "    "  # of the rest of a line that was too long


def wrapped(line: str, width: int) -> str:
    """Break a line between words, into pieces of at most `width` characters where words allow it.

    Columns are at least two spaces apart. The last column continues under its own beginning, or,
    if that is beyond the middle, on lines of its own. A line of JSON is left whole, because a break
    could fall inside a string.
    """
    if len(line) <= width or line.startswith("{") or "\r" in line:  # tqdm fits its own bars
        return line
    fill = partial(textwrap.fill, width=width, break_long_words=False, break_on_hyphens=False)
    start = [gap.end() for gap in re.finditer(r"^ *|  +", line)][-1]
    columns = line[:start].rstrip()
    if columns and start > width // 2:
        return f"{wrapped(columns, width)}\n{fill(INDENT + line[start:], subsequent_indent=INDENT)}"
    return fill(line, subsequent_indent=" " * start + (INDENT if not columns else ""))


class Terminal:
    """A terminal's stream that breaks lines between words."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        width = shutil.get_terminal_size().columns
        self.stream.write("\n".join(wrapped(line, width) for line in text.split("\n")))
        return len(text)


def fitting(stream: TextIO) -> Any:
    """A stream that fits a terminal; a file or a pipe is left as it is, one record a line."""
    return Terminal(stream) if stream.isatty() else stream
