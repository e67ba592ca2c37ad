"""softmax(scores)

exp, scaled to sum to 1 along the last axis.

scores (B, H, Q, T) or (..., T), in the model Q = T -> the same
"""

from __future__ import annotations

from melfront.encoder import ops, oracle

from ..base import Slot, elementwise
from ..inputs import Case, Dice, sizes, strided


def edges(dice: Dice) -> list[Case]:
    b, q, t = sizes(dice, "B", "Q", "T")
    x = dice.normal(b, dice.size("H", 5), q, t, std=3.0)
    return [
        Case("prime size", (x,)),
        Case("one row", (x[0, 0, :1].contiguous(),)),
        Case("non-contiguous", (strided(x),)),
        # exp overflows float32 at 88.
        Case("huge scores", (60 * x,)),
        Case("very negative scores", (x - 500,), vary="add"),
    ]


SLOT = Slot(
    __name__,
    __doc__,
    ops.softmax,
    oracle.softmax,
    elementwise(4),
    edges,
    numpy=oracle.softmax,
    around={"attention": ops.explicit_attention},
)
