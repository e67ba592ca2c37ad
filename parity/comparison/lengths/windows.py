"""Tensors of several windows of a long clip, or of a batch that was flattened.

`melfront` and `melfront encoder` cut a clip that is longer than a window into W windows, and write
each tensor with an axis more in front.

    # W windows  B clips of a batch  M mel bins  F frames  T positions  S state
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ...files.tensors import Dump, Tensor
from ...noise import NOISY, PASS, SHAPE, UNJUDGED, WRONG, Array
from ...pipeline import Pipeline
from ...stages import Stage
from ..reports.report import StageResult
from .parts import time_axis

Shapes = Mapping[Stage, tuple[int, ...]]


class Window(NamedTuple):
    """What is compared at a time: a window, or all there is."""

    pipeline: Pipeline
    given: Dump[Stage]
    held: Dump[Stage] | None


def windows_of(
    pipeline: Pipeline, given: Dump[Stage], held: Dump[Stage] | None, shapes: Shapes
) -> Iterator[Window]:
    """Each window, if the tensors are of every window of the clip; else all, or the first.

    shapes: of each stage given that has an axis of time, of one window or of the whole batch.
    """
    clips = pipeline.given.arrays if pipeline.audio is not None else []
    if clips and pipeline.clips.batched:
        parts = {s: apart(given, s, len(clips), shapes, batched=True) for s in given.tensors}
        joined = {
            s: given.tensors[s]._replace(values=np.stack([tensor.values for tensor in part]))
            for s, part in parts.items()
            if part
        }
        yield Window(pipeline, given._replace(tensors=given.tensors | joined), held)
        return
    n = -(-len(clips[0]) // pipeline.length) if clips else 1
    mine = split(given, n, shapes)
    theirs = split(held, n, shapes) if held else [None] * len(mine)
    if len(mine) != n or len(theirs) != n:  # the first window is there in any case
        yield Window(pipeline, mine[0], theirs[0])
        return
    for i, (tensors, reference) in enumerate(zip(mine, theirs, strict=True)):
        samples = clips[0][i * pipeline.length :][: pipeline.length] if n > 1 else None
        window = pipeline
        if i:  # no longer what the file begins with
            name = f"window {i} of {pipeline.clip_name}"
            window = replace(pipeline, audio=samples, clip_name=name, start=i * pipeline.length)
        yield Window(window, tensors, reference)


def split(dump: Dump[Stage], n: int, shapes: Shapes) -> list[Dump[Stage]]:
    """A dump for each of n windows; only the first, where a tensor has not all of them."""
    if n == 1:
        return [dump]
    parts = {stage: apart(dump, stage, n, shapes) for stage in dump.tensors}
    count = n if all(parts.values()) else 1
    return [
        dump._replace(
            tensors={s: part[i] if part else dump.tensors[s] for s, part in parts.items()}
        )
        for i in range(count)
    ]


def apart(
    dump: Dump[Stage], stage: Stage, n: int, shapes: Shapes, batched: bool = False
) -> list[Tensor]:
    """The tensors of n windows or clips, which may be end to end; none where there are not n."""
    tensor, shape = dump.tensors[stage], shapes.get(stage)
    values = tensor.values
    if shape is not None and batched:
        shape = shape[1:]
    # One axis more in attention is that of the heads.
    several = values.ndim == len(stage.axes) + 1 and len(values) == n and ".attn." not in stage
    if (several and stage not in dump.sampled) or values.shape == (n, *(shape or ())):
        return [tensor._replace(values=x) for x in values]
    if shape is None:
        return []
    axis = time_axis(stage)
    along = (*shape[:axis], n * shape[axis], *shape[axis:][1:])
    pieces: list[Array] = []
    if values.shape == along:
        pieces = np.split(values, n, axis=axis)
    elif values.shape == (n * shape[0], *shape[1:]):
        pieces = np.split(values, n)
    return [tensor._replace(values=x) for x in pieces]


def worse(result: StageResult, other: StageResult) -> bool:
    """Is this window's verdict on a stage worse than another's? NaN is the worst error."""
    order = (PASS, UNJUDGED, NOISY, WRONG, SHAPE)
    mine, theirs = (
        (order.index(r.verdict), r.noise if np.isfinite(r.noise) else np.inf)
        for r in (result, other)
    )
    return mine > theirs
