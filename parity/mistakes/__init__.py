"""The catalogue: every known mistake of a port, each our own pipeline with one decision changed.

`frontend_mistakes.py` has the front end's, `encoder_mistakes.py` the encoder's. To add one: an
entry there, and `python -m parity mistakes` lists it; the tests ask that committed data can see it.
"""

from __future__ import annotations

import re

from .encoder import ADDED_BIAS, ENCODER, KERNEL, EncoderMistake, run
from .front_end import FRONT_END, RESHAPED, FrontEndMistake
from .misread import FILE

__all__ = [
    "ADDED_BIAS",
    "ENCODER",
    "FILE",
    "FRONT_END",
    "KERNEL",
    "RESHAPED",
    "EncoderMistake",
    "FrontEndMistake",
    "everything",
    "find",
    "run",
]


def everything() -> list[FrontEndMistake | EncoderMistake]:
    return [RESHAPED, *FILE, *FRONT_END, ADDED_BIAS, *ENCODER, *KERNEL]


def find(name: str) -> FrontEndMistake | EncoderMistake:
    """The entry of this name. Raises KeyError."""
    return {entry.name: entry for entry in everything()}[name]


def __getattr__(constant: str) -> FrontEndMistake | EncoderMistake:
    """`mistakes.SYMMETRIC_WINDOW` is the entry "symmetric window"."""
    for entry in everything():
        if re.sub(r"\W+", "_", entry.name).strip("_").upper() == constant:
            return entry
    raise AttributeError(f"no mistake named {constant}")
