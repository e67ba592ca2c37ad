"""attention(q, k, v)

softmax(q k^T / sqrt(D)) v; nothing is masked.

q, k, v (B, H, T, D), D = 64 -> (B, H, T, D)
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from melfront.encoder import ops, oracle

from ..base import Array, Slot
from ..inputs import HEAD_DIM, Case, Dice


def truth(q: Array, k: Array, v: Array) -> Array:
    """Item by item: the float64 scores of a whole batch are large."""
    items = zip(q, k, v, strict=True)
    return np.stack([oracle.softmax(oracle.scores(qi, ki)) @ vi for qi, ki, vi in items])


def flops(q: Tensor, k: Tensor, v: Tensor) -> float:
    b, h, t, d = q.shape
    return b * h * t * t * (4.0 * d + 4)


def edges(dice: Dice) -> list[Case]:
    # More than one block of any tiling, and the last of them not full.
    b, h = dice.size("B", 3), dice.size("H", 5)
    t, d = dice.size("T", 131, 137, 139, 149, 151), dice.size("D", HEAD_DIM)
    dice.room(h, t, t)  # for the scores of the truth
    q, k, v = (dice.normal(b, h, t, d) for _ in range(3))
    positions_first = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    return [
        Case("prime size", (q, k, v)),
        Case("one head, one clip", (q[:1, :1], k[:1, :1], v[:1, :1])),
        Case("heads side by side", tuple(positions_first)),
        Case("huge scores", (12 * q, 12 * k, v)),
        Case("large offset in k", (q, k + 8, v), vary="add"),
    ]


explicit = {"explicit": ops.explicit_attention}
SLOT = Slot(__name__, __doc__, ops.attention, truth, flops, edges, torch=explicit, along=3)
