"""A wrong tensor next to its truth, with its axes named: what the symptoms are read from.

# H heads  D head_dim  S state
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...noise import Array, rms, widen
from ...stages import Stage

WHAT = {  # a step along an axis of this letter
    "F": "frame",
    "T": "position",
    "M": "mel",
    "K": "bin",
    "N": "sample",
    "S": "channel",
    "H": "head",
    "A": "channel",
    "L + N": "sample",
}
TIMES = 30.0  # what is left is this many times smaller than the error, or it is no explanation
BAD = 10.0  # units of noise: an index is bad if its own error is larger
UNRELATED = 0.1  # correlation, of hundreds of numbers
TINY, MOST_LARGER = 2.0**-126, 1e6
HEADS_SIDE_BY_SIDE = ("attn.q", "attn.k", "attn.v", "attn.context")


def axis_names(stage: Stage, ndim: int) -> list[str]:
    """What each axis counts: ["clip", "mel", "frame"]; the scores' last two: query and key."""
    names = ["clip"] * (ndim - len(stage.axes)) + [WHAT[letter] for letter in stage.axes]
    if names[-2:] == ["position", "position"]:
        names[-2:] = ["query", "key"]
    return names


class View(NamedTuple):
    """The candidate and the truth, both float64 or complex128 and of one shape."""

    mine: Array
    truth: Array
    unit: float  # one unit of noise
    limit: float  # how many units of it pass
    names: tuple[str, ...]  # of the axes

    @property
    def error(self) -> float:
        """rms"""
        return rms(self.mine - self.truth)

    def explained(self, variant: Array, where: Array | None = None) -> bool | None:
        """Is the candidate this variant? True to within noise, False nearly, None not.

        where: look at these values only. The noise of a variant is larger or smaller than the
        truth's by as much as the variant is.
        """
        mine, truth = self.mine, self.truth
        if where is not None:
            mine, truth, variant = mine[where], truth[where], variant[where]
        left, size = rms(mine - variant), rms(variant)
        noise = self.limit * self.unit * min(size / max(rms(truth), TINY), MOST_LARGER)
        if not (rms(mine - truth) >= (2 if left <= noise else TIMES) * left):
            return None
        return bool(left <= noise)

    def part(self, axis: int, chosen: Array) -> View:
        """Some indices of an axis alone."""
        return self._replace(mine=self.mine.take(chosen, axis), truth=self.truth.take(chosen, axis))

    def per(self, axis: int) -> Array:
        """rms error of each index of an axis."""
        return root(np.abs(self.mine - self.truth) ** 2, axis)

    def axes(self) -> list[int]:
        """Those with more than one index."""
        return [axis for axis, n in enumerate(self.mine.shape) if n > 1]


def root(squares: Array, axis: int) -> Array:
    """Root of the mean over all axes but one."""
    others = tuple(i for i in range(squares.ndim) if i != axis)
    return np.asarray(np.sqrt(squares.mean(axis=others)))


def correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = rms(a) * rms(b)
    return float(np.abs(np.mean(a * b.conj())) / size) if size > 0 else 1.0


def view_of(
    stage: Stage, mine: Array, truth: Array, unit: float, limit: float, n_head: int = 0
) -> View:
    """Of a stage's tensors; with n_head, heads that lie side by side have an axis of their own."""
    names = axis_names(stage, truth.ndim)
    mine, truth = widen(mine), widen(truth)
    if n_head > 1 and stage.within in HEADS_SIDE_BY_SIDE and not truth.shape[-1] % n_head:
        mine, truth = (x.reshape(*x.shape[:-1], n_head, -1) for x in (mine, truth))  # (..., H, D)
        names = [*names[:-1], "head", "channel"]
    return View(mine, truth, unit, limit, tuple(names))


def many(name: str, count: int) -> str:
    return f"{name}{'s' * (count != 1)}" if name != "query" or count == 1 else "queries"


def short(x: complex) -> str:
    """Four digits."""
    if isinstance(x, complex) and x.imag:
        return f"({x.real:.4g}{x.imag:+.4g}j)"
    return f"{float(x.real):.4g}"
