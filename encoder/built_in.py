"""Encoders by name, with weights from `formula.py` and no download.

`formula:tiny` is a published size, `formula:tiny/128` that size with 128 mel bins. `formula:toy`
and `formula:toy-quiet` are small enough to commit every stage, in `reference_data/encoder`. They
have two blocks and sizes that are prime and all different, so that a swapped axis cannot fit by
chance. The quiet one scales its stem down, so that the first layer norm's input has a variance near
eps: only then does a wrong eps show.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from melfront.command import MAX_MELS, is_n_mels

from . import formula
from .checkpoint import CheckpointError
from .config import SIZES, EncoderConfig

PREFIX = "formula:"
TOY = EncoderConfig(
    n_mels=7, n_audio_ctx=11, n_audio_state=26, n_audio_head=2, n_audio_layer=2, n_audio_mlp=53
)
STEM = ("conv1.", "conv2.", "positions")
QUIET_BITS = 7  # the stem's weights, biases and positions are divided by 2^7, which is exact
TOYS = {"toy": 0, "toy-quiet": QUIET_BITS}


def load(
    name: str, dtype: torch.dtype, device: str | torch.device
) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """The dimensions and the weights of a name that begins with PREFIX, as `checkpoint.load`.

    Raises CheckpointError for an unknown name.
    """
    dims = config(name)
    weights = formula.weights(dims, dtype, device)
    if bits := TOYS.get(name.removeprefix(PREFIX), 0):
        for key, weight in weights.items():
            if key.startswith(STEM):
                weight.mul_(2.0**-bits)
    return dims, weights


def config(name: str) -> EncoderConfig:
    size, _, n_mels = name.removeprefix(PREFIX).partition("/")
    if size in TOYS and not n_mels:
        return TOY
    if size not in SIZES or (n_mels and not is_n_mels(n_mels)):
        raise CheckpointError(
            f"unknown built-in encoder {name!r}; expected formula:SIZE or "
            f"formula:SIZE/BINS, SIZE one of {', '.join([*SIZES, *TOYS])}, up to {MAX_MELS} bins"
        )
    return replace(SIZES[size], n_mels=int(n_mels)) if n_mels else SIZES[size]
