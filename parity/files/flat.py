"""Flat arrays: which shape they had, in which order, and how many frames."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from melfront.conventions import HOP_LENGTH, N_FRAMES

from ..noise import Array, rms, widen
from ..pipeline import Pipeline
from ..stages import Stage
from .tensors import Dump, Tensor

BINS = (80, 128)
ROUNDED = 0.01  # what a sum over a mean, as printed, may be off the size
FEW = 3  # frames too many that are a mistake, and not another length
WORDS = {"M": "mel", "F": "frame", "T": "position", "S": "channel", "A": "channel"}


def bins_of_tensor(tensor: Tensor, clip: Any) -> int | None:
    """How many mel bins a tensor has, 80 or 128, if its shape or its size tell.

    Where both divide the size, the number of frames tells: those of 30 s, of the clip, or of the
    two together, which is how many whisper.cpp computes.
    """
    shape = tensor.values.shape
    size: float | None = tensor.values.size
    if tensor.printed is not None:
        shape, size = tensor.printed.shape or (0,), tensor.printed.size
    if len(shape) > 1:
        return next((int(n) for n in shape[-2:] if n in BINS), None)
    frames = len(clip) // HOP_LENGTH if isinstance(clip, np.ndarray) and clip.ndim == 1 else 0
    likely = {n + more for n in (N_FRAMES, frames, N_FRAMES + frames) for more in (0, 1)} - {0}
    near = [bins for bins in BINS for n in likely if size and abs(size / bins / n - 1) < ROUNDED]
    dividing = [bins for bins in BINS if size and size % bins == 0]
    return next(iter((*near, *dividing)), None)


def unflattened(dump: Dump[Stage], pipeline: Pipeline, held: Dump[Stage] | None) -> Dump[Stage]:
    """A dump with its flat arrays in their stages' shapes, as far as their sizes allow."""
    if pipeline.audio is not None and pipeline.clips.batched:
        return dump
    tensors = dict(dump.tensors)
    for stage, tensor in tensors.items():
        whole = stage not in dump.sampled and tensor.printed is None
        if tensor.values.ndim == 1 and len(stage.axes) > 1 and whole:
            truth = nearly(stage, pipeline, held)
            if truth is not None:
                tensors[stage] = shaped(tensor, stage, truth)
    return dump._replace(tensors=tensors)


def nearly(stage: Stage, pipeline: Pipeline, held: Dump[Stage] | None) -> Array | None:
    """A tensor of this stage that is right enough to tell the order by, if one can be had."""
    if held is not None and stage in held.tensors and stage not in held.sampled:
        values = held.tensors[stage].values
        return values if values.ndim == len(stage.axes) else None
    if pipeline.audio is None:
        return None
    if stage.of_front_end:
        return pipeline.front_end_truth[stage]
    if pipeline.model is None or stage not in pipeline.stages:
        return None
    return pipeline.right_port([stage], "float32")[stage]


def shaped(tensor: Tensor, stage: Stage, truth: Array) -> Tensor:
    """A flat tensor in the truth's shape, in whichever order is nearer to the truth.

    With more frames than the truth has, the first are kept; with fewer, all.
    """
    values, shape = tensor.values, truth.shape
    if np.iscomplexobj(truth) and values.size == 2 * truth.size and not np.iscomplexobj(values):
        return tensor._replace(values=values.reshape(*shape, 2), notes=("flat",))
    if len(shape) > 2:
        right = values.size == math.prod(shape)
        return tensor._replace(values=values.reshape(shape), notes=("flat",)) if right else tensor
    axis = stage.time_axis or 0
    other = shape[1 - axis]
    if not values.size or values.size % other:
        return tensor
    steps, expected = values.size // other, shape[axis]
    turned = (steps, other) if axis == 0 else (other, steps)
    overlap: Any = [slice(None)] * 2
    overlap[axis] = slice(min(steps, expected))
    orders = (values.reshape(turned), values.reshape(turned[::-1]).T)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        far = [rms(widen(x[tuple(overlap)]) - truth[tuple(overlap)]) for x in orders]
    chosen = int(far[1] < far[0])
    slow = WORDS.get(stage.axes[chosen], "row")
    note = f"flat, {slow} by {slow}"
    found = orders[chosen]
    if steps > expected + FEW:
        time = WORDS[stage.axes[axis]]
        note += f": {steps} {time}s, of which the first {expected} are compared"
        found = found[tuple(overlap)]
    return tensor._replace(values=found, notes=(*tensor.notes, note))
