"""mel(power, filters)

Averages neighbouring frequencies in triangles.

power (F, K) or (B, F, K), filters (M, K) -> (M, F) or (B, M, F)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from melfront import variants
from melfront.conventions import Convention

from ..base import Call, Function, Slot
from ..inputs import Case, Dice, strided
from . import constants
from . import stft as previous


def mel(power: Any, filters: Any) -> Any:
    """Of tensors ours, of float64 arrays the truth, of float32 arrays a rival."""
    return filters @ power.mT  # (..., M, F)


def under(c: Convention) -> Function:
    return lambda power, filters: variants.mel(power, c, len(filters))


def flops(power: Tensor, filters: Tensor) -> float:
    """Filters that are zero need no product."""
    return 2.0 * power[..., 0].numel() * int((filters != 0).sum())


def speech(audio: Tensor, n_mels: int) -> Call:
    args, _ = previous.speech(audio, n_mels)
    return (previous.stft(*args), constants(n_mels)[1]), {}


def edges(dice: Dice) -> list[Case]:
    m = dice.size("M", 80)
    dice.room(m, 201)
    filters = constants(m)[1].to(dice.dtype)
    n = dice.size("F", 53, 59, 61, 67)
    power = dice.normal(dice.size("B", 3), n, 201).square()
    bins = dice.size("M", 71, 73, 79, 83)
    return [
        Case("prime size", (power, filters)),
        Case("other filters", (power, dice.normal(bins, 201).abs())),
        Case("non-contiguous", (strided(power), filters)),
        Case("zeros and ones", (dice.bits(n, 201), dice.bits(bins, 201)), vary="bits"),
    ]


SLOT = Slot(
    __name__,
    __doc__,
    mel,
    mel,
    flops,
    edges,
    weights=1,
    numpy=mel,
    speech=speech,
    stages=("mel",),
    under=under,
)
