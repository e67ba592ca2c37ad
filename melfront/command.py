"""What the commands of all packages share: values and places that are refused before any work."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path


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
