"""The parser of every command, and options that several have."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

# For tqdm: a bar appears after two seconds, goes at the end, and needs a terminal.
PROGRESS: dict[str, Any] = {"delay": 2, "disable": None, "leave": False}
# For argparse: the switch for a function's check_range=False.
NO_CHECK_RANGE: dict[str, Any] = {
    "dest": "check_range",
    "action": "store_false",
    "help": "take a file of floats beyond [-1, 1], such as unit variance, as it is",
}
MAX_MELS = 1000  # more than 201 frequencies can fill, with room to experiment


class Parser(argparse.ArgumentParser):
    """argparse that keeps the line breaks of its texts and answers a mistake with one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def filled(text: str) -> str:
    """Reject an empty value, such as an unset shell variable."""
    if not text:
        raise argparse.ArgumentTypeError("the value is empty; give one, or leave it out")
    return text


def is_n_mels(text: str) -> bool:
    return text.isdecimal() and 1 <= int(text) <= MAX_MELS
