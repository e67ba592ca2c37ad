"""Tell that a tensor's values were rounded to decimal digits, and what that costs.

A whole array that was printed by "%.4f" and read back is right to within half of the last digit.
Its rounding is counted as noise: it is no mistake itself, and a mistake that is larger is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..files.tensors import Dump, Tensor
from ..noise import EPS, PASS, Array, Floor, rms, widen
from ..stages import Stage

PLACES = range(1, 8)  # behind the point, of "%.1f" to "%.7f"
DIGITS = range(2, 7)  # significant, of "%.2g" to "%g"; with 7 nothing of a float32 is lost
FEW = 1 << 12  # values that tell at once of nearly every tensor that it was not rounded
LEAST_VALUES = 16  # different ones: fewer may lie on a grid for another reason
# A value lies on the grid if it is nearer to it than float32 stores numbers, and then that tells
# something only if the steps of the grid are wider by this factor.
WIDER = 8.0


SAID = 0.1  # of the noise; what rounding costs less than that is not worth a word


class Rounding(NamedTuple):
    """The digits to which every value of a tensor is rounded."""

    places: int | None  # behind the point; None if not alike for all values
    digits: int | None  # significant; None if `places` says it

    def steps(self, values: Array) -> Array:
        """The unit of the last digit of each value."""
        if self.places is not None:
            return np.full(values.shape, 10.0**-self.places)
        assert self.digits is not None
        size = np.abs(values)
        with np.errstate(divide="ignore"):
            exponent = np.floor(np.log10(np.where(size > 0, size, 1.0)))
        return np.asarray(10.0 ** (exponent - (self.digits - 1)))

    def of(self, truth: Array) -> float:
        """The rms error of the truth rounded to these digits: about step / sqrt(12)."""
        parts = [truth.real, truth.imag] if np.iscomplexobj(truth) else [truth]
        lost = []
        for part in parts:
            steps = self.steps(part)
            lost.append(rms(np.round(part / steps) * steps - part))
        return float(np.hypot.reduce(lost))

    def __str__(self) -> str:
        if self.places is not None:
            return f"every value is a multiple of {10.0**-self.places:g}: rounded when printed"
        return f"every value has {self.digits} significant digits: rounded when printed"


def with_rounding(
    given: Dump[Stage], truth: Mapping[Stage, Array], floors: Mapping[Stage, Floor]
) -> tuple[dict[Stage, Floor], dict[Stage, str]]:
    """The noise of each stage with that of its rounding, where it was rounded, and a note of it."""
    with_it, notes = dict(floors), {}
    for stage, tensor in given.tensors.items():
        rounding = rounding_of(tensor, truth[stage])
        if rounding is not None:
            cost, floor = rounding.of(truth[stage]), floors[stage]
            with_it[stage] = floor._replace(rms=float(np.hypot(floor.rms, cost)))
            if cost > SAID * floor.rms:
                notes[stage] = str(rounding)
    return with_it, notes


def said(note: str | None, verdict: str) -> tuple[str, ...]:
    """The note on a stage's rounding for its line of the report."""
    if note is None:
        return ()
    return (f"{note}; right to within that" if verdict == PASS else note,)


def rounding_of(tensor: Tensor, truth: Array) -> Rounding | None:
    """The fewest digits that all values of a float32 or float64 tensor have; None if they have all.

    Places or significant digits, whichever costs more where both fit. Fewer than 16 different
    values may lie on a grid for another reason, and are not taken for rounded.
    """
    if tensor.dtype not in ("float32", "float64") or tensor.printed is not None:
        return None
    values = tensor.values
    flat = np.concatenate([values.real, values.imag], None) if np.iscomplexobj(values) else values
    flat = flat.reshape(-1)
    few = widen(flat[:: max(1, flat.size // FEW)])
    every = ([Rounding(p, None) for p in PLACES], [Rounding(None, d) for d in DIGITS])
    found = [
        next((k for k in kinds if on_grid(few, k) and on_grid(widen(flat), k)), None)
        for kinds in every
    ]
    return max((k for k in found if k), key=lambda kind: kind.of(truth), default=None)


def on_grid(values: Array, kind: Rounding) -> bool:
    """Is every value a multiple of its step, to within what float32 stores of it?"""
    if not np.isfinite(values).all():
        return False
    steps = kind.steps(values)
    counts = np.round(values / steps)
    stored = np.abs(values) * EPS["float32"] / 2
    if not (np.abs(values - counts * steps) <= 1.01 * stored).all():
        return False
    telling = counts[steps >= WIDER * stored]
    return telling.size > values.size / 2 and len(np.unique(telling)) >= LEAST_VALUES
