"""The mistakes that the page can make in front of the reader: entries of parity's catalogue.

The one module of the encoder that looks upwards: parity stands on the encoder, and the page shows
both.
"""

from __future__ import annotations

from typing import Any

from melfront.parity.mistakes import FRONT_END
from melfront.parity.noise import EPS, LEAST_ULP

Entry = dict[str, Any]
NOISE = EPS["float32"] * LEAST_ULP["float32"]  # of a stage's size: the least unit, least_floor
# The decisions that web/melfront.js knows, by their names in `melfront.Convention`.
DECISIONS = {
    *("gain", "preemphasis", "frame_start", "pad_mode", "drop", "window", "periodic"),
    *("spectrum_scale", "folded", "power", "f_min", "f_max", "mel_scale", "mel_norm", "flip_mels"),
    *("log_base", "log_factor", "log_floor", "max_scope", "dynamic_range"),
    *("offset", "divisor", "fill"),
}
WORDS: dict[str, tuple[Any, ...]] = {
    "pad_mode": ("constant", "edge"),
    "drop": ("first",),
    "window": ("hamming", "blackman", None),
    "max_scope": ("frame", None),
    "mel_norm": (None,),
}


def mistakes() -> list[Entry]:
    """Of each: name, sentence, seen, stage, change."""
    return [
        {
            "name": entry.name,
            "sentence": entry.sentence,
            "seen": entry.seen,
            "stage": str(entry.stage),
            "change": dict(entry.change),
        }
        for entry in FRONT_END
        if entry.change and all(is_known(*decision) for decision in entry.change)
    ]


def is_known(name: str, value: Any) -> bool:
    """Whether web/melfront.js can decide so."""
    return name in DECISIONS and (name not in WORDS or value in WORDS[name])
