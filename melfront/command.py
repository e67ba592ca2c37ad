"""What the commands of all packages share: their parser, how they end, print and write files."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TextIO

# For tqdm: a bar appears after two seconds, goes at the end, and needs a terminal.
PROGRESS: dict[str, Any] = {"delay": 2, "disable": None, "leave": False}
# For argparse: the switch for a function's check_range=False.
NO_CHECK_RANGE: dict[str, Any] = {
    "dest": "check_range",
    "action": "store_false",
    "help": "take a file of floats beyond [-1, 1], such as unit variance, as it is",
}
MAX_MELS = 1000  # more than 201 frequencies can fill, with room to experiment
INDENT = "    "  # of the rest of a line that was too long

# torch has no exception of its own for this on a CPU, nor has the loader of shared libraries.
NO_MEMORY = re.compile(
    "not enough memory|allocate memory|tried to allocate|out of memory|bad_alloc|"
    "failed to map segment|can't start new thread"
)


class UsageError(ValueError):
    """One line on stderr, exit status 2."""


class Parser(argparse.ArgumentParser):
    """argparse that keeps the line breaks of its texts and answers a mistake with one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def exit_status(prog: str, work: Callable[[], int | None]) -> int:
    """Run a command; if it fails, print the reason as one line on stderr.

    work: parses the arguments, runs the command, returns the exit status, None for 0.
    Returns that status; 2 for what a user or a machine can cause: bad input, a file that cannot be
    read or written, a missing library, too little memory; 130 for Ctrl-C. Output to a standard
    stream that the caller closed is dropped. Any other exception is a bug and is raised.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for the process to close
    status = 0
    with redirect_stdout(fitting(sys.stdout)), redirect_stderr(fitting(sys.stderr)):
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
            message, status = reason(error), 2
        if not discard_output():
            message = f"standard output: {message}"
        message = message.replace("check_range=False", "--no-check-range")
        print(f"{prog}: {one_line(message)}", file=sys.stderr)
    return status


def reason(error: Exception) -> str:
    """What to print of an error that a user or a machine can cause. Raises any other."""
    if lacks_memory(error):
        detail = f" ({error})" if str(error) else ""
        return f"too little memory{detail}; give a shorter clip"
    if isinstance(error, OSError) and error.strerror:  # without its "[Errno 13]"
        return f"{error.filename}: " * (error.filename is not None) + error.strerror
    if isinstance(error, (OSError, ValueError, ImportError, SystemError)):
        return str(error) or type(error).__name__
    raise error


def discard_output() -> bool:
    """Flush standard output, or drop the rest, or Python complains at exit. Was all written?"""
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


def one_line(text: str, most: int = 1000) -> str:
    """Text that may quote a user's file, made one short line that a terminal can show."""
    text = " ".join(shorten(text, most).split())
    return shorten("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), most)


def shorten(text: str, most: int) -> str:
    """Replace the middle of a text longer than `most` characters by an ellipsis."""
    half = (most - 5) // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def filled(text: str) -> str:
    """Reject an empty value, such as an unset shell variable."""
    if not text:
        raise argparse.ArgumentTypeError("the value is empty; give one, or leave it out")
    return text


def is_n_mels(text: str) -> bool:
    return text.isdecimal() and 1 <= int(text) <= MAX_MELS


def output_files(clips: list[Path], out: Path, option: str, endings: tuple[str, ...]) -> list[Path]:
    """The file for each clip: `out`, or CLIP with the last of the endings in the folder `out`.

    Raises UsageError, before any work is done, if one of them cannot be written.
    """
    folder = "a folder that exists"
    if out.is_dir():
        files = [out / f"{clip.stem}{endings[-1]}" for clip in clips]
    elif len(clips) > 1:
        raise UsageError(f"{option}: one file cannot hold {len(clips)} clips; name {folder}")
    elif out.suffix not in endings:
        raise UsageError(f"{option}: unknown ending; expected {', '.join(endings)}, or {folder}")
    else:
        files = [out]
    for file in files:
        if files.count(file) > 1:
            raise UsageError(f"{option}: two clips would be written as {file.name}; rename one")
        check_output(file, option)
    return files


def check_output(file: Path, option: str) -> None:
    """Raises UsageError, before any work is done, if the file cannot be written."""
    if not file.parent.is_dir():
        raise UsageError(f"{option}: no such folder to write {file.name} into; make it first")
    if file.is_dir():
        raise UsageError(f"{option}: a folder; expected the name of a file to write")
    try:
        tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise UsageError(f"{option}: cannot write there: {error.strerror}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary name in the same folder.

    At the end of the block that file becomes `path`; if the block raises, it is removed.
    Raises UsageError if it cannot be written there.
    """
    check_output(path, str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; safetensors makes it 0600
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
