"""gelu(x)

x times the chance that a normal variable is below it: 0.5 x (1 + erf(x / sqrt(2))).

x (B, T, N) or of any other shape -> the same
"""

from __future__ import annotations

import numpy as np

from melfront.encoder import ops, oracle

from ..base import Array, Slot, elementwise
from ..inputs import Case, Dice, sizes, strided, tiny


def in_numpy(x: Array) -> Array:
    from scipy.special import erf

    return np.float32(0.5) * x * (1 + erf(x * np.float32(0.5**0.5)))


def edges(dice: Dice) -> list[Case]:
    x = dice.normal(*sizes(dice, "B", "T", "N"), std=1.5)
    return [
        Case("prime size", (x,)),
        Case("one axis", (x[0, 0].contiguous(),)),
        Case("non-contiguous", (strided(x),)),
        Case("transposed", (x.transpose(1, 2),)),
        Case("large values", (60 * x,)),
        Case("small values", (1e-3 * x,)),
    ]


def small(dice: Dice) -> Case:
    return tiny(dice, shape=(20, 100))


SLOT = Slot(
    __name__, __doc__, ops.gelu, oracle.gelu, elementwise(10), edges, small=small, numpy=in_numpy
)
