"""Encoders that are no checkpoint, by name: weights from `formula.py`, no download.

`formula:tiny` is a published size, `formula:tiny/128` the size with 128 mel bins. `formula:toy` and
`formula:toy-quiet` are small enough to be committed whole, every stage in `reference_data/encoder`:
two blocks, and prime sizes that are all different, so that no swapped axis fits by chance. The
quiet one has its stem turned down, so that what the first layer norm is given has a variance near
its eps: only then does a wrong eps show.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from .config import SIZES, EncoderConfig
from .files import CheckpointError

if TYPE_CHECKING:
    from .model import WhisperEncoder

PREFIX = "formula:"
MAX_MELS = 1000  # beyond what 201 frequencies can fill
TOY = EncoderConfig(
    n_mels=7, n_audio_ctx=11, n_audio_state=26, n_audio_head=2, n_audio_layer=2, n_audio_mlp=53
)
STEM = ("conv1.", "conv2.", "positions")
QUIET_BITS = 7  # the stem's weights and biases, and the positions, over 2^7: exact
TOYS = {"toy": 0, "toy-quiet": QUIET_BITS}


def load(name: str, dtype: torch.dtype, device: str | torch.device) -> WhisperEncoder:
    """The encoder of a name that begins with PREFIX. Raises CheckpointError for any other name."""
    from .model import WhisperEncoder  # which imports this module

    model = WhisperEncoder.from_formula(config(name), dtype=dtype, device=device)
    if bits := TOYS.get(name.removeprefix(PREFIX), 0):
        for key, weight in model.state_dict().items():
            if key.startswith(STEM):
                weight.mul_(2.0**-bits)
    return model


def config(name: str) -> EncoderConfig:
    size, _, n_mels = name.removeprefix(PREFIX).partition("/")
    if size in TOYS and not n_mels:
        return TOY
    if size not in SIZES or (n_mels and not is_n_mels(n_mels)):
        raise CheckpointError(
            f"{name!r} is no encoder that is built in; expected formula:SIZE or "
            f"formula:SIZE/BINS, SIZE one of {', '.join([*SIZES, *TOYS])}, up to {MAX_MELS} bins"
        )
    return replace(SIZES[size], n_mels=int(n_mels)) if n_mels else SIZES[size]


def is_n_mels(text: str) -> bool:
    return text.isdecimal() and 1 <= int(text) <= MAX_MELS
