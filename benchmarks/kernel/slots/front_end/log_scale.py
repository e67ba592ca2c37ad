"""log_scale(mel)

log10 of at least 1e-10, no less than the clip's maximum - 8, then (x + 4) / 4.

mel (M, F) or (B, M, F) -> the same
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from melfront import variants
from melfront.conventions import DYNAMIC_RANGE, LOG_FLOOR, TRANSFORMERS, Convention

from ..base import Array, Call, Function, Slot, elementwise
from ..inputs import Case, Dice, strided
from . import mel as previous


def log_scale(mel: Tensor) -> Tensor:
    log = mel.clamp(min=LOG_FLOOR).log10()
    return (torch.maximum(log, log.amax((-2, -1), keepdim=True) - DYNAMIC_RANGE) + 4) / 4


def in_numpy(mel: Array) -> Array:
    log = np.log10(np.maximum(mel, np.float32(LOG_FLOOR)))
    np.maximum(log, log.max(axis=(-2, -1), keepdims=True) - np.float32(DYNAMIC_RANGE), out=log)
    return (log + np.float32(4)) / np.float32(4)


def under(c: Convention) -> Function:
    return lambda mel: variants.scale(variants.clamp(variants.log(mel, c), c), c)


def speech(audio: Tensor, n_mels: int) -> Call:
    args, _ = previous.speech(audio, n_mels)
    return (previous.mel(*args),), {}


def edges(dice: Dice) -> list[Case]:
    b, m, n = dice.size("B", 3), dice.size("M", 71, 73, 79, 83), dice.size("F", 53, 59, 61, 67)
    power = (10 ** dice.normal(b, m, n, std=3.0).float()).to(dice.dtype)
    loudness = torch.tensor([1.0, 1e-6, 1e4], dtype=dice.dtype).repeat(b)[:b, None, None]
    return [
        Case("prime size", (power,)),
        Case("batch of unequal loudness", (power * loudness,)),
        Case("non-contiguous", (strided(power),)),
        Case("silence", (torch.zeros(m, n, dtype=dice.dtype),)),
        Case("time first", (power.transpose(1, 2).contiguous().transpose(1, 2),)),
    ]


SLOT = Slot(
    __name__,
    __doc__,
    log_scale,
    under(TRANSFORMERS),
    elementwise(6),
    edges,
    numpy=in_numpy,
    axis=-1,
    speech=speech,
    stages=("log", "clamped", "features"),
    under=under,
)
