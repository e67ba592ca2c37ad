"""qkv(x, q_weight, q_bias, k_weight, v_weight, v_bias)

The three projections of attention; k has no bias.

x (B, T, S), weights (S, S), biases (S,) -> q, k, v, each (B, T, S)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from melfront.encoder import ops, oracle

from ..base import Array, Slot, f64
from ..inputs import Case, Dice, sizes, strided


def one_product(
    x: Tensor, wq: Tensor, bq: Tensor, wk: Tensor, wv: Tensor, bv: Tensor
) -> tuple[Tensor, ...]:
    """A model would keep the joined weights; here joining them is timed."""
    joined = functional.linear(
        x, torch.cat([wq, wk, wv]), torch.cat([bq, torch.zeros_like(bq), bv])
    )
    return joined.chunk(3, dim=-1)


def truth(x: Tensor, wq: Tensor, bq: Tensor, wk: Tensor, wv: Tensor, bv: Tensor) -> list[Array]:
    x64 = f64(x)
    return [
        oracle.linear(x64, f64(wq), f64(bq)),
        oracle.linear(x64, f64(wk)),
        oracle.linear(x64, f64(wv), f64(bv)),
    ]


def edges(dice: Dice) -> list[Case]:
    b, t, s = sizes(dice)

    def arguments(make: Callable[..., Tensor], x: Tensor) -> tuple[Any, ...]:
        return (x, make(s, s), make(s), make(s, s), make(s, s), make(s))

    x = dice.normal(b, t, s)
    return [
        Case("prime size", arguments(dice.normal, x)),
        Case("non-contiguous", arguments(dice.normal, strided(x))),
        Case("zeros and ones", arguments(dice.bits, dice.bits(b, t, s)), vary="bits", exact=True),
    ]


SLOT = Slot(
    __name__,
    __doc__,
    ops.qkv,
    truth,
    lambda x, weight, *_: 6.0 * x.numel() * weight.shape[0],
    edges,
    torch={"one product": one_product},
)
