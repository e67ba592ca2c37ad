"""What the commands of all packages share: how they end, print, and refuse before any work."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

# For tqdm: from the third second on, gone in the end, and none where stderr is no terminal.
PROGRESS: dict[str, Any] = {"delay": 2, "disable": None, "leave": False}
# For argparse: the switch for what a function calls check_range=False.
NO_CHECK_RANGE: dict[str, Any] = {
    "dest": "check_range",
    "action": "store_false",
    "help": "take a file of floats beyond [-1, 1], such as unit variance, as it is",
}
INDENT = 4  # of what did not fit into a line

# torch has no type of its own for this on a CPU, and the loader of shared libraries none at all.
NO_MEMORY = re.compile(
    "not enough memory|allocate memory|tried to allocate|out of memory|bad_alloc|"
    "failed to map segment|can't start new thread"
)


class UsageError(ValueError):
    """One line on stderr, exit status 2."""


def exit_status(prog: str, work: Callable[[], int | None]) -> int:
    """Do the work of a command, and say in one line on stderr what kept it from being done.

    work: parses the arguments too, and returns the exit status, None for 0.
    Returns that; 2 for whatever a user or a machine can bring about: bad input, a file that cannot
    be read or written, a library that is not there, too little memory; 130 for Ctrl-C. Where the
    caller closed a standard stream, what would go there is dropped. Any other exception is a
    mistake of ours and comes through.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for the process to close
    with to_the_width():
        return ending(prog, work)


def ending(prog: str, work: Callable[[], int | None]) -> int:
    """`exit_status`, with standard streams that are there."""
    status = 0
    try:
        try:
            status = work() or 0
        finally:
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # `| head` has seen enough
        discard_output()
        return status
    except KeyboardInterrupt:
        message, status = "interrupted", 130  # 128 + SIGINT, as a shell has it
    except Exception as error:
        if lacks_memory(error):
            message = f"too little memory{in_brackets(error)}; give a shorter clip"
        elif isinstance(error, OSError) and error.strerror:  # without its "[Errno 13]"
            message = f"{error.filename}: " * (error.filename is not None) + error.strerror
        elif isinstance(error, (OSError, ValueError, ImportError, SystemError)):
            message = str(error) or type(error).__name__
        else:
            raise
        status = 2
    if not discard_output():
        message = f"standard output: {message}"
    message = message.replace("check_range=False", "--no-check-range")
    print(f"{prog}: {one_line(message)}", file=sys.stderr)
    return status


def discard_output() -> bool:
    """Drops what standard output does not take, or Python complains in the end. Took it all?"""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def lacks_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or bool(
        isinstance(error, (RuntimeError, OSError, ImportError))
        and NO_MEMORY.search(str(error).lower())
    )


def in_brackets(error: Exception) -> str:
    return f" ({error})" if str(error) else ""


def one_line(text: str, most: int = 1000) -> str:
    """Text with something of a stranger's file in it: one line, not long, fit for a terminal."""
    text = " ".join(shorten(text, most).split())
    return shorten("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), most)


def shorten(text: str, most: int) -> str:
    """Without the middle, where there are more than `most` characters."""
    half = (most - 5) // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


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
    """Within the block, a terminal's edge cuts no word that is printed.

    What goes into a file or a pipe stays as it is, a record a line.
    """
    with ExitStack() as streams:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if stream is not None and stream.isatty():
                wrapping: Any = Terminal(stream)
                streams.enter_context(redirect(wrapping))
        yield
