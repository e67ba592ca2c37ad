"""conv1d_gelu(x, weight, bias, stride)

Mixes three neighbouring steps, with one zero before the first and after the last, then GELU.

x (B, C, F), weight (S, C, 3), bias (S,) -> (B, S, (F - 1) // stride + 1)
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from melfront.encoder import WhisperEncoder, ops, oracle

from ..base import Array, Function, Slot
from ..inputs import Case, Dice, sizes, strided


def conv1d_gelu(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """The two ops that the stem calls one after the other."""
    op = ops.current()
    return op.gelu(op.conv1d(x, weight, bias, stride))


def truth(x: Array, weight: Array, bias: Array, stride: int) -> Array:
    return oracle.gelu(np.stack([oracle.conv1d(item, weight, bias, stride) for item in x]))


def flops(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> float:
    out = x.shape[0] * weight.shape[0] * ((x.shape[2] - 1) // stride + 1)
    # Winograd's F(2, 3) does stride 1 with two thirds of the products.
    return out * (2.0 * x.shape[1] * 3 * (2 / 3 if stride == 1 else 1) + 10)


def mlp(*args: Tensor) -> Tensor:
    with ops.using(gelu=ops.gelu):
        return ops.mlp(*args)


def fill(_model: WhisperEncoder, kernel: Function) -> dict[str, Function]:
    """The kernel replaces conv1d, and nothing the GELU after it; the MLP keeps its own GELU."""
    return {"conv1d": kernel, "gelu": lambda x: x, "mlp": mlp}


def edges(dice: Dice) -> list[Case]:
    b, f, s = sizes(dice, "B", "F", "S")
    c = dice.size("C", 79, 83, 89)
    weight, bias = dice.normal(s, c, 3, std=(3 * c) ** -0.5), dice.normal(s)
    x = dice.normal(b, c, f)
    return [
        Case("prime size", (x, weight, bias), {"stride": 1}),
        Case("prime size, stride 2", (x, weight, bias), {"stride": 2}),
        Case("even length, stride 2", (x[..., : f - 1].contiguous(), weight, bias), {"stride": 2}),
        Case("non-contiguous", (strided(x), weight, bias), {"stride": 1}),
        Case("large values", (50 * x, weight, bias), {"stride": 2}),
    ]


SLOT = Slot(__name__, __doc__, conv1d_gelu, truth, flops, edges, weights=2, axis=-1, fill=fill)
