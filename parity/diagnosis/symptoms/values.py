"""What the values themselves show: constants, bounds, and types with fewer bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ...files.tensors import Tensor
from ...noise import Array
from ...stages import Stage
from .places import listed
from .view import BAD, UNRELATED, View, correlation, many, short

SAMPLES = ("padded", "frames")
DISTINCT = 64  # values, so that it is no chance that all of them need few bits
ENOUGH = 256  # values, so that a correlation says something
OFTEN = 8  # times that a bound is met


def grid(values: Array) -> str | None:
    """The 16-bit type that holds each of these numbers exactly: "bfloat16" or "float16".

    None where one needs more bits, or where there are too few different values to tell.
    """
    for piece in (values.flat[: 64 * DISTINCT], values.flat):  # a quick look first
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            single = np.asarray(piece, np.float32)
            narrow = [kind for kind, holds in HOLDS.items() if holds(single)]
        if not narrow:
            return None
    return narrow[0] if len(np.unique(values)) >= DISTINCT else None


def in_bfloat16(values: Array) -> bool:
    return not (values.view(np.uint32) & 0xFFFF).any()


def in_float16(values: Array) -> bool:
    narrow = values.astype(np.float16).astype(np.float32)
    return np.array_equal(narrow, values, equal_nan=True)


HOLDS = {"bfloat16": in_bfloat16, "float16": in_float16}


def narrow_types(tensors: Mapping[Stage, Tensor]) -> dict[Stage, str]:
    """The stages stored in float32 or float64 all of whose values are of a 16-bit type, and that.

    Not the waveform's own: 16-bit samples have few bits without being rounded.
    """
    wide = {stage: t.values for stage, t in tensors.items() if t.dtype in ("float32", "float64")}
    found = {
        stage: grid(values)
        for stage, values in wide.items()
        if stage not in SAMPLES and not np.iscomplexobj(values)
    }
    return {stage: kind for stage, kind in found.items() if kind}


def not_finite(v: View) -> Iterator[str]:
    """Where NaN and infinity stand, along each axis that does not hold them everywhere."""
    wrong = ~np.isfinite(v.mine) & np.isfinite(v.truth)
    for axis in v.axes():
        others = tuple(i for i in range(wrong.ndim) if i != axis)
        bad, n = np.flatnonzero(wrong.any(axis=others)), v.mine.shape[axis]
        if 0 < len(bad) < n:
            yield f"NaN or infinity in {len(bad)} of {n} {many(v.names[axis], n)}: {listed(bad)}"


def unwritten(v: View, axis: int, bad: Array) -> str:
    """What stands at the bad indices of an axis, if it is all the same; "" otherwise."""
    there, truth = v.mine.take(bad, axis), v.truth.take(bad, axis)
    value = there.flat[0]
    if (there == value).all() and (not value or not (truth == truth.flat[0]).all()):
        which = "there" if len(bad) > 1 else f"in {v.names[axis]} {bad[0]}"
        return f"every value {which} is {short(value)}: never written, or overwritten"
    if there.size >= ENOUGH and abs(correlation(there, truth)) <= UNRELATED:
        return "the values there have nothing in common with the truth"
    return ""


def left_out(stage: Stage, v: View) -> str:
    """Keys that no query sees, or of which each query sees one block, in attention's weights."""
    if stage.within != "attn.weights":
        return ""
    sees = (v.mine != 0).any(axis=tuple(range(v.mine.ndim - 2)))  # (T, T)
    unseen = np.flatnonzero(~sees.any(axis=0))
    if 0 < len(unseen) < len(sees):
        return f"no query sees {many('key', len(unseen))} {listed(unseen)}: their weights are 0"
    first, last = sees.argmax(axis=1), len(sees) - 1 - sees[:, ::-1].argmax(axis=1)
    blocks = np.unique(np.stack([first, last], 1), axis=0)
    follow = len(blocks) > 1 and (blocks[1:, 0] == blocks[:-1, 1] + 1).all()
    if not follow or not (sees.sum(axis=1) == last - first + 1).all():
        return ""
    words = ", ".join(f"{a}-{b}" for a, b in blocks[:3]) + ", ..." * (len(blocks) > 3)
    return f"each query sees the keys of its own block alone, {words}: attention in windows"


def bounded(v: View) -> str:
    """Bounds that many values have, where the truth goes beyond, if all else is right."""
    if np.iscomplexobj(v.truth):
        return ""
    low, high = v.mine.min(), v.mine.max()
    words = [
        f"no value is {which} {short(bound)}, and {count} should be"
        for which, bound, count in (
            ("above", high, ((v.mine == high) & (v.truth > high + BAD * v.unit)).sum()),
            ("below", low, ((v.mine == low) & (v.truth < low - BAD * v.unit)).sum()),
        )
        if count >= OFTEN
    ]
    clipped = words and v.explained(v.truth.clip(low, high))
    return f"all is right but the bounds: {' and '.join(words)}" if clipped else ""
