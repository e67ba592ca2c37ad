"""Tensors of another length: a part of a stage, positions pooled or stacked, fewer positions.

What was given of a stage is recognised by its shape and its values. It is compared with the same
part of the truth, and so is every mistake of the catalogue.

    # B batch  T frames or positions  n of them that were given  S state
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from melfront.conventions import HOP_LENGTH, SAMPLE_RATE

from ...files.fit import fit
from ...files.shapes import stage_shapes
from ...files.tensors import Dump
from ...noise import Array
from ...pipeline import Pipeline, shorter
from ...stages import LN_POST, ParityError, Stage
from ..expected import Expected, expected, truth_of
from .parts import (
    EXACT,
    FEW,
    NEAR,
    Cut,
    Part,
    before_norm,
    best_view,
    same,
    score,
    scores_of,
    time_axis,
)

Shapes = dict[Stage, tuple[int, ...]]


class Lengths(NamedTuple):
    """How the tensors that do not have the shape of their stage are read."""

    pipeline: Pipeline  # another one where the encoder was run with fewer positions
    views: dict[Stage, Part]
    shapes: Shapes  # that were expected, of every stage with an axis of time
    hopeless: set[Stage]  # the encoder's stages that cannot be read


def read_lengths(pipeline: Pipeline, given: Dump[Stage], held: Dump[Stage] | None) -> Lengths:
    """Recognise what was given of the stages that are of another length."""
    if held is None and pipeline.audio is None:
        return Lengths(pipeline, {}, {}, set())
    shapes = shapes_of(pipeline, given, held)
    odd = of_another_length(given, shapes)
    whole = whole_stages(pipeline, held, {stage for stage, (n, *_) in odd.items() if n})
    if held is None:
        pipeline = with_fewer_positions(pipeline, odd, whole)
        shapes = shapes_of(pipeline, given, held)
        odd = of_another_length(given, shapes)
    views: dict[Stage, Part] = {}
    hopeless = set()
    for stage, (n, values, shape) in odd.items():
        view = None
        if n == shape[time_axis(stage)]:
            view = Part("positions are stacked, unstacked here", values, stage, same)
        elif n:
            view = best_view(stage, values, whole, pipeline)
        if view:
            views[stage] = view
        elif held is None and not stage.of_front_end and stage not in ("conv1", "gelu1"):
            hopeless.add(stage)  # of the first convolution, its stride may be wrong
    return Lengths(pipeline, views, shapes, hopeless)


# --- shapes ---------------------------------------------------------------------------------------


def shapes_of(pipeline: Pipeline, given: Dump[Stage], held: Dump[Stage] | None) -> Shapes:
    """The expected shape of each stage given that has an axis of time."""
    if held is not None:
        shapes = {stage: values.shape for stage, values in truth_of(held).items()}
    else:
        shapes = {Stage(name): shape for name, shape in stage_shapes(pipeline).items()}
        if "spectrum" in shapes:
            shapes[Stage("spectrum")] = shapes[Stage("spectrum")][:-1]  # there, as pairs
        if pipeline.clips.batched:
            n = len(pipeline.clips.arrays)
            shapes = {stage: (n, *shape) for stage, shape in shapes.items()}
    sampled = {*given.sampled, *(held.sampled if held else ())}
    sampled |= {stage for stage, tensor in given.tensors.items() if tensor.printed}
    return {
        stage: shapes[stage]
        for stage in given.tensors
        if stage in shapes and stage not in sampled and stage.time_axis is not None
    }


def of_another_length(
    given: Dump[Stage], shapes: Shapes
) -> dict[Stage, tuple[int, Array, tuple[int, ...]]]:
    """The stages whose tensors do not fit: how long they are, 0 if unknown, values, and shape."""
    found = {}
    for stage, shape in shapes.items():
        values, complex_ = given.tensors[stage].values, stage == "spectrum"
        if fit(values, stage, shape, complex_).fits:
            continue
        n, laid_out = with_axes(values, stage, shape)
        missing = shape[time_axis(stage)] - n
        if 0 < missing <= FEW:  # a mistake, and no part that somebody chose
            n = 0
        found[stage] = n, laid_out, shape
    return found


def with_axes(values: Array, stage: Stage, shape: tuple[int, ...]) -> tuple[int, Array]:
    """How many frames or positions there are, 0 if unknown, and the values in the stage's axes."""
    axis = time_axis(stage)
    whole = shape[axis]
    rest = (*shape[:axis], *shape[axis:][1:])
    while values.ndim > len(shape) and values.shape[0] == 1:
        values = values[0]
    if values.shape == rest and not stage.of_front_end:  # a mean over time
        return 1, np.expand_dims(values, axis)
    for n in dict.fromkeys(values.shape):
        lengths = [(*shape[:axis], n, *shape[axis:][1:])]
        if stage.axes[-2:] == ("T", "T"):
            lengths.append((*shape[:-2], n, n))
        for length in lengths:
            fitted = fit(values, stage, length, stage == "spectrum")
            if 0 < n < whole and fitted.fits:
                return n, fitted.values
    if stage.axes == ("T", "S") and values.ndim == len(shape):
        rows, wide = values.shape[-2:]
        times, over = divmod(wide, shape[-1])
        if times > 1 and not over and 0 <= rows * times - whole < times:
            unstacked = values.reshape(*shape[:-2], rows * times, shape[-1])
            return whole, unstacked[..., :whole, :]
    return 0, values


# --- fewer positions ------------------------------------------------------------------------------


def with_fewer_positions(
    pipeline: Pipeline,
    odd: Mapping[Stage, tuple[int, Array, tuple[int, ...]]],
    whole: Mapping[Stage, Array],
) -> Pipeline:
    """The pipeline whose encoder has as many positions as were given, if that explains them better.

    The features may be those of the whole window, cut, or of a window that is shorter.
    """
    inside = {s: (n, values) for s, (n, values, _) in odd.items() if n and not s.of_front_end}
    counts = {n // 2 if "F" in s.axes else n for s, (n, _) in inside.items()}
    if len(counts) != 1 or pipeline.model is None or pipeline.whole_ctx or counts == {1}:
        return pipeline
    (n,) = counts
    model, whole_ctx = pipeline.model, pipeline.model.config.n_audio_ctx
    if n >= whole_ctx:
        return pipeline
    parted = [scores_of(s, values, whole, pipeline) for s, (_, values) in inside.items()]
    scores = [max(min(found for found, _ in scored) for scored in parted)]
    if scores[0] < EXACT:
        return pipeline
    cut = replace(pipeline, model=shorter(model, n), whole_ctx=whole_ctx)
    ways = [pipeline, cut, replace(cut, pad_to=2 * n * HOP_LENGTH / SAMPLE_RATE)]
    for way in ways[1:]:
        tensors = way.right_port(inside, "float32")
        scores.append(max(score(v, tensors[s], tensors[s], s) for s, (_, v) in inside.items()))
    best = int(np.argmin(scores))
    # Before the first attention, both ways give the same.
    return ways[best] if scores[best] < min(NEAR[False], scores[0] / 2) else pipeline


# --- parts of a stage -----------------------------------------------------------------------------


def whole_stages(
    pipeline: Pipeline, held: Dump[Stage] | None, stages: set[Stage]
) -> dict[Stage, Array]:
    """These stages as a right port has them, and what the final norm reads."""
    if held is not None:
        return truth_of(held)
    if all(stage.of_front_end for stage in stages):
        return {stage: pipeline.front_end_truth[stage] for stage in stages}
    wanted = stages | ({before_norm(pipeline)} if LN_POST in stages else set())
    return {Stage(name): x for name, x in pipeline.right_port(wanted, "float32").items()}


# --- the truth of the parts -----------------------------------------------------------------------


def expected_lengths(
    lengths: Lengths, given: Dump[Stage], held: Dump[Stage] | None, forced: bool
) -> Expected:
    """`expected` of what was given of each stage, with noise that is measured on as much of it."""
    pipeline, views, _, hopeless = lengths
    if forced and views:
        stage = next(iter(views))
        raise ParityError(
            f"--forced computes a stage from the whole one before it; of {stage} "
            f"{views[stage].words}: leave --forced out"
        )
    plain = {s: t for s, t in given.tensors.items() if s not in views and s not in hopeless}
    truth, floors = expected(pipeline, given._replace(tensors=plain), held, forced)
    for own in (True, False):  # a view of another stage has its name, which may be given too
        chosen = {s: view for s, view in views.items() if (view.source == s) == own}
        if not chosen:
            continue
        wide = {str(view.source): view.wide for view in chosen.values()}
        tensors = {v.source: given.tensors[s]._replace(values=v.values) for s, v in chosen.items()}
        fresh = replace(pipeline)  # noise is kept by the stage's name, and this is another's
        look = partial(widely, wide)
        cut = expected(fresh, given._replace(tensors=tensors), held, False, look)
        for stage, view in chosen.items():
            truth[stage] = view.narrow(cut.truth[view.source])
            floors[stage] = cut.floors[view.source]
    return Expected(truth, floors)


def widely(wide: Mapping[str, Cut], name: str, tensor: Array) -> Array:
    return wide[name](tensor) if name in wide else tensor
