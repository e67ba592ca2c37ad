"""The catalogue: every known mistake of a port, each our own pipeline with one decision changed.

To add one, write an entry in the file of its place: `front_end.py` up to the spectrum, then
`mel_and_log.py`, or one of `encoder_stem.py` and `encoder_blocks.py`; in `pieces.py` if a length is
part of it.
"""

from __future__ import annotations

from .chunks import CHUNKS
from .encoder_blocks import ADDED_BIAS, BLOCKS, KERNEL, OVERFLOW
from .encoder_stem import OTHER_WEIGHTS, STEM_AND_NORMS
from .entry import EncoderMistake, FrontEndMistake
from .front_end import RESHAPED, ROWS_SWAPPED, WAVEFORM
from .mel_and_log import MEL_AND_LOG
from .misread import FILE
from .pieces import cut_up, in_chunks, in_tiles
from .presets import PRESETS
from .steps import run

__all__ = [
    "ADDED_BIAS",
    "ENCODER",
    "FILE",
    "FRONT_END",
    "KERNEL",
    "OTHER_WEIGHTS",
    "OVERFLOW",
    "RESHAPED",
    "ROWS_SWAPPED",
    "EncoderMistake",
    "FrontEndMistake",
    "everything",
    "find",
    "run",
]

FRONT_END = [*WAVEFORM, *MEL_AND_LOG, *PRESETS, *CHUNKS]
ENCODER = [*STEM_AND_NORMS, *BLOCKS]


def everything() -> list[FrontEndMistake | EncoderMistake]:
    of_some_length = [in_chunks(100), in_tiles(64), *cut_up(1500, 384, 6)]  # of tiny, for example
    encoder = [ADDED_BIAS, *ENCODER, *of_some_length, OVERFLOW, *KERNEL]
    return [RESHAPED, *FILE, *FRONT_END, *encoder, ROWS_SWAPPED, OTHER_WEIGHTS]


def find(name: str) -> FrontEndMistake | EncoderMistake:
    """The entry of this name. Raises KeyError."""
    return {entry.name: entry for entry in everything()}[name]
