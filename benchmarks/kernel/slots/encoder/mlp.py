"""mlp(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias)

linear, GELU, linear.

x (B, T, S) or (..., S), fc1_weight (A, S), fc2_weight (S, A) -> (..., S)
"""

from __future__ import annotations

from torch import Tensor

from melfront.encoder import ops, oracle

from ..base import Array, Slot
from ..inputs import Case, Dice, sizes, strided


def truth(x: Array, w1: Array, b1: Array, w2: Array, b2: Array) -> Array:
    return oracle.linear(oracle.gelu(oracle.linear(x, w1, b1)), w2, b2)


def flops(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> float:
    return x.numel() * (4.0 * w1.shape[0] + 10 * w1.shape[0] / x.shape[-1])


def edges(dice: Dice) -> list[Case]:
    b, t, s = sizes(dice)
    a = dice.size("A", 397, 401, 409)
    x, weights = dice.normal(b, t, s), (*dice.linear(a, s), *dice.linear(s, a))
    return [
        Case("prime size", (x, *weights)),
        Case("one position", (x[:1, :1], *weights)),
        Case("non-contiguous", (strided(x), *weights)),
        Case("large values", (30 * x, *weights)),
    ]


SLOT = Slot(__name__, __doc__, ops.mlp, truth, flops, edges, weights=4)
