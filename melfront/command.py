"""What the commands of all packages share: what they refuse before any work, and how they print."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

# For tqdm: from the third second on, gone in the end, and none where stderr is no terminal.
PROGRESS: dict[str, Any] = {"delay": 2, "disable": None, "leave": False}
INDENT = 4  # of what did not fit into a line


class UsageError(ValueError):
    """One line on stderr, exit status 2."""


def filled(text: str) -> str:
    """A value that is not empty, as that of a shell's variable is which nobody has set."""
    if not text:
        raise argparse.ArgumentTypeError("the value is empty; give one, or leave it out")
    return text


def check_folder(file: Path, option: str) -> None:
    """Raises UsageError where the file's folder cannot be written to: now, not after the work."""
    try:
        tempfile.TemporaryFile(dir=file.absolute().parent).close()
    except OSError as error:
        raise UsageError(f"{option}: cannot write there: {error.strerror}") from error


def wrapped(line: str, width: int) -> str:
    """A line broken between words, each piece up to `width` characters if its words are.

    Columns are two spaces or more apart. What follows of the last one stands under its beginning;
    if that is beyond the middle, the last one has lines of its own. A line of JSON stays whole, for
    a break would be inside a string.
    """
    if len(line) <= width or line.startswith("{") or "\r" in line:  # tqdm knows the width itself
        return line

    def fill(text: str, indent: int) -> str:
        return textwrap.fill(
            text,
            width,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )

    start = [gap.end() for gap in re.finditer(r"^ *|  +", line)][-1]
    columns = line[:start].rstrip()
    if not columns:
        return fill(line, start + INDENT)
    if start <= width // 2:
        return fill(line, start)
    return f"{wrapped(columns, width)}\n{fill(' ' * INDENT + line[start:], INDENT)}"


class Terminal:
    """A stream that leads to a terminal, where it breaks lines between words."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        width = shutil.get_terminal_size().columns
        self.stream.write("\n".join(wrapped(line, width) for line in text.split("\n")))
        return len(text)


@contextmanager
def to_the_width() -> Iterator[None]:
    """Within the block, or in the function decorated with it, no word that is printed on a terminal
    is cut by its edge. What goes into a file or a pipe stays as it is, a record a line."""
    with ExitStack() as streams:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if stream is not None and stream.isatty():
                wrapping: Any = Terminal(stream)
                streams.enter_context(redirect(wrapping))
        yield
