"""A clamp at another floor than 8 decades under the clip's maximum.

# M mel bins  F frames
"""

from __future__ import annotations

import numpy as np

from ...noise import Array
from ...pipeline import Pipeline
from .linear import Rule
from .view import BAD, View, short

MOST = 0.7  # of the frames that are right with another floor
HELD = 2  # values of a frame at its smallest, so that it is a floor
SHOWN = 3


def other_floor(pipeline: Pipeline, stage: str, v: View) -> tuple[Rule, Array] | None:
    """Where the floor is, and the tensor with it; None if that does not explain the error."""
    if stage not in ("clamped", "features") or v.mine.ndim != 2 or pipeline.audio is None:
        return None
    c = pipeline.convention
    if c.output_mean or c.fill is not None:
        return None
    free = pipeline.front_end_truth["log"]  # (M, F)
    if stage == "features":
        free = (free + c.offset) / c.divisor
    if free.shape != v.mine.shape:
        return None
    lowest = v.mine.min(axis=0)  # (F,)
    held = np.flatnonzero((v.mine <= lowest + v.unit).sum(axis=0) >= HELD)
    if not held.size:
        return None
    # A frame whose values are all above the floor has the floor of the nearest that shows it.
    after = np.searchsorted(held, np.arange(len(lowest))).clip(1, max(len(held) - 1, 1))
    near = np.where(
        np.arange(len(lowest)) - held[after - 1]
        <= held[after % len(held)] - np.arange(len(lowest)),
        held[after - 1],
        held[after % len(held)],
    )
    floor = lowest[near]
    variant = np.maximum(free, floor)
    exact = v.explained(variant)
    right, mended = (np.mean(w.per(1) <= BAD * v.unit) for w in (v, v._replace(truth=variant)))
    most = mended >= MOST and mended - right >= 1 - MOST
    if exact is None and not most:
        return None
    return Rule(in_words(floor, v, free), bool(exact)), variant


def in_words(floor: Array, v: View, free: Array) -> str:
    right = float(v.truth.min())
    if floor.max() - floor.min() <= 10 * v.unit:
        decades = 8 * (free.max() - floor[0]) / (free.max() - right)
        return (
            f"the floor is {short(floor[0])} and should be {short(right)}: {decades:.3g} decades "
            "under the clip's maximum, not 8"
        )
    steps = np.flatnonzero(np.abs(np.diff(floor)) > 10 * v.unit) + 1
    runs = np.split(np.arange(len(floor)), steps)
    words = [f"{short(floor[run[0]])} in frames {run[0]}-{run[-1]}" for run in runs[:SHOWN]]
    more = f", ... {len(runs)} in all" if len(runs) > SHOWN else ""
    return (
        f"the floor should be {short(right)} and changes with time, as of a maximum of each part: "
        f"{', '.join(words)}{more}"
    )
