"""How a command ends: its exit status, and one line on what went wrong."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, NoReturn

from .terminal import fitting

# torch has no exception of its own for this on a CPU, nor has the loader of shared libraries.
NO_MEMORY = re.compile(
    "not enough memory|allocate memory|tried to allocate|out of memory|bad_alloc|"
    "failed to map segment|can't start new thread"
)


class UsageError(ValueError):
    """One line on stderr, exit status 2."""


def exit_status(prog: str, work: Callable[[], int | None]) -> int:
    """Run a command; if it fails, print the reason as one line on stderr.

    work: parses the arguments, runs the command, returns the exit status, None for 0.
    Returns that status; 2 for what a user or a machine can cause: bad input, a file that cannot be
    read or written, a missing library, too little memory; 130 for Ctrl-C, 143 for SIGTERM, 129 for
    SIGHUP. Output to a standard stream that the caller closed is dropped. Any other exception is a
    bug and is raised.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for the process to close
    status, signals = 0, list[signal.Signals]()
    with redirect_stdout(fitting(sys.stdout)), redirect_stderr(fitting(sys.stderr)):
        try:
            with unwound_by(signals):
                try:
                    status = work() or 0
                finally:
                    sys.stdout.flush()
            return status
        except KeyboardInterrupt:
            message, status = "interrupted", 130  # 128 + SIGINT, as a shell has it
        except Exception as error:
            if isinstance(error, BrokenPipeError) and error.filename is None:
                discard_output()  # `| head` has seen enough
                return status
            # A library that is interrupted may raise what it raises for any failure.
            message, status = ("", 0) if signals else (reason(error), 2)
        if signals and signals[0] != signal.SIGINT:
            message, status = f"ended by {signals[0].name}", 128 + signals[0]
        elif signals:
            message, status = "interrupted", 130
        if not discard_output():
            message = f"standard output: {message}"
        message = message.replace("check_range=False", "--no-check-range")
        print(f"{prog}: {one_line(message)}", file=sys.stderr)
    return status


@contextmanager
def unwound_by(came: list[signal.Signals]) -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does.

    So everything is tidied up before the process ends. came: gets the signals that come. One that
    the caller has ignored, as nohup does, stays ignored.
    """

    def stop(number: int, _frame: object) -> NoReturn:
        came.append(signal.Signals(number))
        raise KeyboardInterrupt

    def again(dropped: sys.UnraisableHookArgs) -> None:
        """Python drops what is raised in a callback of a weakref, or in a __del__."""
        if came and issubclass(dropped.exc_type, KeyboardInterrupt):
            threading.Timer(0.01, signal.raise_signal, [came[-1]]).start()
        else:
            hook(dropped)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # no other may set a handler
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number and signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, stop)
    hook, sys.unraisablehook = sys.unraisablehook, again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


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
