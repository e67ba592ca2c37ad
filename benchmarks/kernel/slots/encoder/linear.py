"""linear(x, weight, bias=None)

x weight^T + bias.

x (B, T, S) or (..., S), weight (O, S), bias (O,) or None -> (..., O)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from melfront.encoder import ops, oracle

from ..base import Array, Slot
from ..inputs import Case, Dice, sizes, strided, tiny, whole_numbers


def in_numpy(x: Array, weight: Array, bias: Array | None = None) -> Array:
    return x @ weight.T if bias is None else x @ weight.T + bias


def truth(x: Array, weight: Array, bias: Array | None = None) -> Array:
    return oracle.linear(x, weight, 0.0 if bias is None else bias)


def flops(x: Tensor, weight: Tensor, bias: Any = None) -> float:
    return 2.0 * x.numel() * weight.shape[0]


def edges(dice: Dice) -> list[Case]:
    b, t, s = sizes(dice)
    o = dice.size("O", 97, 103, 109, 113)
    x, (weight, bias) = dice.normal(b, t, s), dice.linear(o, s)
    bits = (dice.bits(t, s), dice.bits(o, s), dice.bits(o))
    return [
        Case("prime size", (x, weight, bias)),
        Case("no bias", (x, weight)),
        Case("non-contiguous", (strided(x), weight, bias)),
        Case("transposed weight", (x, weight.T.contiguous().T, bias)),
        Case("zeros and ones", bits, vary="bits"),
        *whole_numbers(dice, (t, s), (o, s), (o,)),
    ]


def small(dice: Dice) -> Case:
    return tiny(dice, dice.normal(50, 100, std=30), shape=(20, 100))


SLOT = Slot(
    __name__, __doc__, ops.linear, truth, flops, edges, weights=2, small=small, numpy=in_numpy
)
