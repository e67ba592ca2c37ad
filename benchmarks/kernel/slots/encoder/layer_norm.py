"""layer_norm(x, weight, bias, eps=1e-5)

Mean 0 and variance 1 along the last axis, then scaled and shifted.

x (B, T, S) or (..., S), weight (S,), bias (S,) -> (..., S)
"""

from __future__ import annotations

import torch

from melfront.encoder import ops, oracle

from ..base import Slot, elementwise
from ..inputs import Case, Dice, sizes, strided, tiny


def edges(dice: Dice) -> list[Case]:
    b, t, s = sizes(dice)
    weight, bias, x = dice.normal(s, mean=1.5), dice.normal(s), dice.normal(b, t, s)
    # A mean of 1000 times the spread: E[x^2] - E[x]^2 has no digit left. In 16 bits storing x would
    # lose the spread itself.
    offset = 1000 if dice.dtype == torch.float32 else 16
    return [
        Case("prime size", (x, weight, bias)),
        Case("one row", (x[0, :1].contiguous(), weight, bias)),
        Case("non-contiguous", (strided(x), weight, bias)),
        Case("transposed", (x.transpose(0, 1), weight, bias)),
        Case("small values", (1e-3 * x, weight, bias)),
        Case("large offset", (x + offset, weight, bias), vary="add"),
    ]


def small(dice: Dice) -> Case:
    """Their spread is next to nothing beside eps, so the result is about 300 times as large."""
    return tiny(dice, dice.normal(100, mean=1.5), torch.zeros(100), shape=(20, 100))


norm = oracle.layer_norm  # of float64 the truth, of float32 a rival
ours, flops = ops.layer_norm, elementwise(7)
SLOT = Slot(__name__, __doc__, ours, norm, flops, edges, weights=2, small=small, numpy=norm)
