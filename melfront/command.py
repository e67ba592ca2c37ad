"""What the commands of all packages share: how they end, and what they refuse before any work."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

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
