"""An offset or a factor: the same everywhere, or one for each bin, channel, head or frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from ...noise import Array, rms
from ...stages import Stage
from .view import View, many, short

MOST_DECADES = 30.0  # more are no scale of a waveform
LOGARITHMS = {"log": 1.0, "clamped": 1.0, "features": 4.0}  # stage: decades that 1 stands for
ENOUGH = 0.05  # of the values, on which a rule of the logarithm's is seen
FREE = 8  # values for each number that is fitted, at the least
MEAN = 1e-5  # that is 0, of the largest value


class Rule(NamedTuple):
    """A rule that gives the candidate from the truth."""

    text: str
    exact: bool  # to within noise


def linear(stage: Stage, v: View, weights: Mapping[str, Array] | None = None) -> Rule | None:
    """The simplest such rule that holds exactly, or else nearly.

    weights: the model's vectors, by name; given, each index of an axis may have its own number.
    """
    where, nearly = above_the_floor(stage, v), None
    keep = np.ones(v.mine.shape, bool) if where is None else where
    tried = rules(stage, v, keep, "" if where is None else " above the floor")
    for text, variant in tried:
        exact = v.explained(variant, where)
        if exact:
            return Rule(text, True)
        if exact is not None and nearly is None:
            nearly = Rule(text, False)
    for axis in v.axes() if weights is not None else ():
        for text, variant in rules_of_axis(stage, v, axis, keep, weights or {}):
            if v.explained(variant, where):
                return Rule(text, True)
    return nearly


def above_the_floor(stage: Stage, v: View) -> Array | None:
    """Where a logarithm is not held up by a floor; None where nothing is."""
    if stage not in LOGARITHMS:
        return None
    where = (v.truth > v.truth.min() + 1e-3) & (v.mine > v.mine.min() + 1e-3)
    return where if ENOUGH <= where.mean() < 1 else None


def rules(stage: Stage, v: View, keep: Array, which: str) -> Iterator[tuple[str, Array]]:
    """Each rule that is the same for every value, in words, and the tensor that it gives."""
    every, what = tuple(range(v.mine.ndim)), f"every value{which}"
    offset = mean(v.mine - v.truth, keep, every)
    yield offset_line(stage, what, offset.item()), v.truth + offset
    ratio = factor(v, keep, every)
    yield factor_line(what, ratio.item()), ratio * v.truth
    if np.iscomplexobj(v.truth):
        yield "the imaginary part has the other sign", v.truth.conj()
    steep = slope(v, keep)
    offset = mean(v.mine - steep * v.truth, keep, every)
    line = f"{what} is {short(steep)} times the truth, {signed(offset.item())}"
    yield line, steep * v.truth + offset


def rules_of_axis(
    stage: Stage, v: View, axis: int, keep: Array, weights: Mapping[str, Array]
) -> Iterator[tuple[str, Array]]:
    """Rules with a number of its own for each index of an axis, where there are values enough."""
    others = tuple(i for i in range(v.mine.ndim) if i != axis)
    if v.mine.size < FREE * v.mine.shape[axis]:
        return
    offset, ratio = mean(v.mine - v.truth, keep, others), factor(v, keep, others)
    line = each(stage, v.names[axis], offset.ravel(), weights)
    if np.abs(v.mine.mean(axis=others)).max() <= MEAN * np.abs(v.mine).max():
        line = f"the mean of each {v.names[axis]} is taken off"
    yield line, v.truth + offset
    yield factors(v.names[axis], ratio.ravel()), ratio * v.truth


def mean(x: Array, keep: Array, axes: tuple[int, ...]) -> Array:
    count = keep.sum(axis=axes, keepdims=True)
    total = np.where(keep, x, 0).sum(axis=axes, keepdims=True)
    return np.asarray(total / np.maximum(count, 1))


def factor(v: View, keep: Array, axes: tuple[int, ...]) -> Array:
    """The factor that is nearest, over some of the axes; 1 where the truth is nothing."""
    truth = np.where(keep, v.truth, 0)
    own = (np.abs(truth) ** 2).sum(axis=axes, keepdims=True)
    both = (truth.conj() * v.mine).sum(axis=axes, keepdims=True)
    return np.where(own > 0, both / np.where(own > 0, own, 1), 1)


def slope(v: View, keep: Array) -> complex:
    """Of the straight line that is nearest."""
    x, y = v.truth[keep], v.mine[keep]
    x, y = x - x.mean(), y - y.mean()
    own = np.vdot(x, x).real
    ratio: complex = (np.vdot(x, y) / own).item() if own else 1.0
    return ratio


# --- in words -------------------------------------------------------------------------------------


def signed(x: complex) -> str:
    return f"{'plus' if x.real >= 0 else 'less'} {short(abs(x.real))}"


def offset_line(stage: Stage, what: str, offset: complex) -> str:
    line = f"{what} is the truth {signed(offset)}"
    decades = LOGARITHMS.get(stage, 0.0) * offset.real
    if 0 < abs(decades) < MOST_DECADES:
        line += f": a power times {10**decades:.4g}, an amplitude times {10 ** (decades / 2):.4g}"
    return line


def factor_line(what: str, ratio: complex) -> str:
    if abs(ratio + 1) < 1e-4:
        return f"{what} has the other sign"
    inverse = f" (1/{short(1 / ratio)})" if 0 < abs(ratio) < 1 else ""
    return f"{what} is {short(ratio)}{inverse} times the truth"


def each(stage: Stage, name: str, offset: Array, weights: Mapping[str, Array]) -> str:
    """An offset for each index of an axis, and which of the model's vectors it is."""
    for parameter, values in weights.items():
        if values.shape == offset.shape and rms(values) > 0:
            for sign, words in ((-1, "is missing"), (1, "is added once more")):
                if rms(offset - sign * values) <= 1e-3 * rms(values):
                    return f"{parameter} {words}"
    low, high = int(np.argmin(offset.real)), int(np.argmax(offset.real))
    line = (
        f"each {name} is off by a number of its own, the same everywhere in it: from "
        f"{short(offset[low])} ({name} {low}) to {short(offset[high])} ({name} {high})"
    )
    if stage in LOGARITHMS and name == "mel":
        return f"{line}: each filter is scaled differently"
    return line


def factors(name: str, ratio: Array) -> str:
    """A factor for each index of an axis."""
    flipped = np.flatnonzero(np.abs(ratio + 1) < 1e-4)
    if len(flipped) and (np.abs(np.abs(ratio) - 1) < 1e-4).all():
        return f"{len(flipped)} of {len(ratio)} {many(name, 2)} have the other sign"
    low, high = int(np.argmin(ratio.real)), int(np.argmax(ratio.real))
    return (
        f"each {name} is multiplied by a number of its own, from {short(ratio[low])} "
        f"({name} {low}) to {short(ratio[high])} ({name} {high})"
    )
