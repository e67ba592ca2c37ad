"""Parts of a stage that a tensor of another length may be, and how unlike each it is.

# B batch  T frames or positions  n of them that were given  S state  C channels or bins
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from melfront.encoder import oracle as encoder_oracle

from ...noise import Array, rms, widen
from ...pipeline import Pipeline
from ...stages import LN_POST, Stage

Cut = Callable[[Array], Array]

# Of 1 - correlation over time, of a front-end stage and of an encoder's. Mistakes are below it, but
# for the encoder's worst: of the encoder the catalogue takes minutes, of the front end seconds.
NEAR = {True: 0.9, False: 0.5}
NEARER = 0.1  # for a part that is not the first: of so many, one is always nearest
FEWEST = 10  # frames or positions that noise is measured on: one has too few numbers
FEW = 3  # frames that are missing because they are not centred, or one too many
EXACT = 1e-4  # of scores: where float32 is right
EQUAL = 1e-6  # scores that float32 cannot tell apart
GROUPS = {2: "pairs", 3: "threes", 4: "fours", 5: "fives", 8: "eights", 10: "tens"}


def same(tensor: Array) -> Array:
    return tensor


class Part(NamedTuple):
    """What was given of a stage, and how to cut it out of the whole one."""

    words: str
    values: Array  # what was given, with all axes of the stage
    source: Stage  # the stage that it is cut out of
    wide: Cut  # cuts FEWEST frames or positions, or what was given if that is more
    narrow: Cut = same  # cuts what was given out of those

    def cut(self, tensor: Array) -> Array:
        return self.narrow(self.wide(tensor))


def time_axis(stage: Stage) -> int:
    """-1 or -2: of the scores, the axis of the queries."""
    return (stage.time_axis or 0) - len(stage.axes)


def before_norm(pipeline: Pipeline) -> Stage:
    return Stage(f"block.{(pipeline.n_layer or 1) - 1}.mlp_residual")


def upright(tensor: Array, stage: Stage) -> Array:
    """With time on the last axis but one, or back."""
    return tensor.swapaxes(-1, -2) if time_axis(stage) == -1 else tensor


def best_view(
    stage: Stage, values: Array, whole: Mapping[Stage, Array], pipeline: Pipeline
) -> Part | None:
    """The part of the stage that the values are, or None if they are like none."""
    scored = scores_of(stage, values, whole, pipeline)
    best = min(found for found, _ in scored)
    if not best < NEAR[stage.of_front_end]:
        return None
    part = next(view for found, view in scored if found <= 2 * best + EQUAL)
    return part if best < NEARER or part is scored[0][1] else None


def scores_of(
    stage: Stage, values: Array, whole: Mapping[Stage, Array], pipeline: Pipeline
) -> list[tuple[float, Part]]:
    """Every part of the stage that the values may be, and how unlike it they are."""
    return [
        (score(values, view.cut(whole[view.source]), whole[stage], stage), view)
        for view in parts(stage, values, whole, pipeline)
        if view.source in whole
    ]


def score(values: Array, part: Array, whole: Array, stage: Stage) -> float:
    """0 for values that are this part of the stage, 1 for values that have nothing to do with it.

    The rms distance, in units of the variation over time, or 1 - correlation if that is less: a
    mistake may change the scale.
    """
    if values.shape != part.shape:
        return float("inf")
    v, p, w = (upright(widen(x), stage) for x in (values, part, whole))
    v = np.where(np.isfinite(v), v, p)  # NaN is a mistake, and no other length
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        varies = rms(w - w.mean(axis=-2, keepdims=True))  # not at all in silence
        scores = [rms(v - p) / varies if varies else float(rms(v - p) > 0)]
        if v.shape[-2] >= FEWEST:
            v, p = (x - x.mean(axis=-2, keepdims=True) for x in (v, p))
            scores.append(1 - abs(np.vdot(v, p)) / np.float64(rms(v) * rms(p) * v.size))
    return min((float(s) for s in scores if np.isfinite(s)), default=float("inf"))


def parts(
    stage: Stage, values: Array, whole: Mapping[Stage, Array], pipeline: Pipeline
) -> Iterator[Part]:
    """Every part of a stage that has as many frames or positions as the values."""
    axis = time_axis(stage)
    n, every = values.shape[axis], whole[stage].shape[axis]
    unit = "frames" if "F" in stage.axes else "positions"
    square = stage.axes[-2:] == ("T", "T") and values.shape[-1] == n  # of queries and of keys

    def along(function: Cut) -> Cut:
        return lambda tensor: upright(function(upright(tensor, stage)), stage)

    def first(n: int) -> Cut:
        return along(lambda x: x[..., :n, :n] if square else x[..., :n, :])

    words = f"the first {n} of {every} {unit} are given"
    yield Part(words, values, stage, first(max(n, FEWEST)), first(n))
    start = start_of(upright(values, stage), upright(whole[stage], stage))
    if start > FEW:  # below, it is a mistake: a first frame too many or too few
        words = f"{unit} {start} to {start + n - 1} of {every} are given"
        yield Part(words, values, stage, along(lambda x: x[start : start + n]))
    # Every other frame of conv1 is what a stride of 2 gives there, a known mistake.
    for k in GROUPS if n > 1 and not square and stage not in ("conv1", "gelu1") else ():
        for begin in range(k):
            if n in (every // k, len(range(begin, every, k))):
                words = f"one in {k} of {every} {unit} is given, from {unit[:-1]} {begin}"
                yield Part(words, values, stage, along(partial(one_in, k, begin, n)))
    if stage.of_front_end or "T" not in stage.axes or square:
        return
    for words, pool in pools(n, every, pipeline.n_audio if pipeline.audio is not None else 0):
        yield Part(words, values, stage, along(pool))
        if stage == LN_POST and pipeline.model is not None:
            words += " before the final norm" + (", as Qwen2-Audio does" if 2 * n == every else "")
            norm = partial(final_norm, pipeline.model.state_dict(), pool)
            yield Part(words, values, before_norm(pipeline), norm)


def one_in(k: int, begin: int, n: int, x: Array) -> Array:
    return x[..., begin::k, :][..., :n, :]


def averaged(k: int, n: int, x: Array) -> Array:
    """(..., T, S) -> (..., n, S): the mean of each k positions."""
    mean: Array = x[..., : n * k, :].reshape(*x.shape[:-2], n, k, -1).mean(axis=-2)
    return mean


def final_norm(weights: Mapping[str, Any], pool: Cut, x: Array) -> Array:
    weight, bias = (weights[f"ln_post.{name}"].double().numpy() for name in ("weight", "bias"))
    return encoder_oracle.layer_norm(pool(widen(x)), weight, bias)


def pools(n: int, every: int, n_audio: int) -> Iterator[tuple[str, Cut]]:
    """The ways to average (..., T, S) to (..., n, S)."""
    for k, group in GROUPS.items():
        if n == every // k:
            yield f"{n} positions: averaged in {group}", partial(averaged, k, n)
    if n == 1:
        yield f"averaged over all {every} positions", partial(averaged, every, 1)
        if 0 < n_audio < every:
            words = f"averaged over the {n_audio} positions that hold audio"
            yield words, partial(averaged, n_audio, 1)


def start_of(values: Array, whole: Array) -> int:
    """Where (n, C) values are in the whole (T, C), by three of their frames or positions.

    0 for a batch, and for heads.
    """
    if values.ndim > 2:
        return 0
    n, starts = len(values), len(whole) - len(values) + 1
    rows = {0, n // 2, n - 1}
    off = sum(
        np.nan_to_num(np.abs(whole[row : row + starts] - values[row])).sum(axis=-1) for row in rows
    )
    return int(np.argmin(off))
