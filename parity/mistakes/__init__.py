"""The catalogue: every known mistake of a port, each our own pipeline with one decision changed.

To add one, write an entry in the file of its half and part: `front_end_spectrum.py`,
`front_end_mel.py`, `encoder_stem.py` or `encoder_blocks.py`.
"""

from __future__ import annotations

import re

from .encoder_blocks import ADDED_BIAS, BLOCKS, KERNEL
from .encoder_stem import STEM_AND_NORMS
from .entry import EncoderMistake, FrontEndMistake
from .front_end_mel import MEL_TO_FEATURES
from .front_end_spectrum import RESHAPED, WAVEFORM_TO_POWER
from .misread import FILE
from .run import run

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

FRONT_END = [*WAVEFORM_TO_POWER, *MEL_TO_FEATURES]
ENCODER = [*STEM_AND_NORMS, *BLOCKS]


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
