"""qkv(x, q_weight, q_bias, k_weight, v_weight, v_bias)

The three projections of attention; k has no bias.

x (B, T, S), weights (S, S), biases (S,) -> q, k, v, each (B, T, S)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from melfront.encoder import ops, oracle

from ..base import Array, Slot
from ..inputs import Case, Dice, sizes, strided, whole_numbers


def one_product(
    x: Tensor, wq: Tensor, bq: Tensor, wk: Tensor, wv: Tensor, bv: Tensor
) -> tuple[Tensor, ...]:
    """A model would keep the joined weights; here joining them is timed."""
    weight, bias = torch.cat([wq, wk, wv]), torch.cat([bq, torch.zeros_like(bq), bv])
    return functional.linear(x, weight, bias).chunk(3, dim=-1)


def truth(x: Array, wq: Array, bq: Array, wk: Array, wv: Array, bv: Array) -> list[Array]:
    return [oracle.linear(x, wq, bq), oracle.linear(x, wk), oracle.linear(x, wv, bv)]


def flops(x: Tensor, weight: Tensor, *_: Tensor) -> float:
    return 6.0 * x.numel() * weight.shape[0]


def edges(dice: Dice) -> list[Case]:
    b, t, s = sizes(dice)
    shapes = [(s, s), (s,), (s, s), (s, s), (s,)]
    x, weights = dice.normal(b, t, s), [dice.normal(*shape) for shape in shapes]
    bits = [dice.bits(*shape) for shape in [(b, t, s), *shapes]]
    return [
        Case("prime size", (x, *weights)),
        Case("non-contiguous", (strided(x), *weights)),
        Case("zeros and ones", tuple(bits), vary="bits"),
        *whole_numbers(dice, (b, t, s), *shapes),
    ]


rivals = {"one product": one_product}
SLOT = Slot(__name__, __doc__, ops.qkv, truth, flops, edges, weights=5, torch=rivals)
