"""mlp(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias)

linear, GELU, linear.

x (..., S), fc1_weight (A, S), fc2_weight (S, A) -> (..., S)
"""

from __future__ import annotations

from torch import Tensor

from melfront.encoder import ops, oracle

from ..base import Array, Slot, f64
from ..inputs import Case, Dice, sizes, strided


def truth(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Array:
    hidden = oracle.gelu(oracle.linear(f64(x), f64(w1), f64(b1)))
    return oracle.linear(hidden, f64(w2), f64(b2))


def flops(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> float:
    return x.numel() * (4.0 * w1.shape[0] + 10 * w1.shape[0] / x.shape[-1])


def edges(dice: Dice) -> list[Case]:
    b, t, s = sizes(dice)
    a = dice.prime(397, 401, 409)
    x = dice.normal(b, t, s)
    rest = (
        dice.normal(a, s, std=s**-0.5),
        dice.normal(a),
        dice.normal(s, a, std=a**-0.5),
        dice.normal(s),
    )
    return [
        Case("prime size", (x, *rest)),
        Case("one position", (x[:1, :1], *rest)),
        Case("non-contiguous", (strided(x), *rest)),
        Case("large values", (30 * x, *rest)),
    ]


SLOT = Slot(__name__, __doc__, ops.mlp, truth, flops, edges)
