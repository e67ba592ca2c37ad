"""The verdict on one stage, and where in it the largest error is."""

from __future__ import annotations

import math

import numpy as np

from melfront.conventions import HOP_LENGTH, SAMPLE_RATE

from ..diagnosis.symptoms.view import WHAT, axis_names
from ..files.fit import fit
from ..files.sampling import as_real, at_positions, sample_positions
from ..files.tensors import Tensor
from ..noise import BAD_STEP, SHAPE, WRONG, Array, Floor, error, limits, rms, step_errors, widen
from ..stages import Stage
from .reports.report import StageResult


def judge(stage: Stage, tensor: Tensor, truth: Array, floor: Floor) -> tuple[StageResult, Array]:
    """The verdict on a whole tensor, and its values in our layout."""
    fitted = fit(tensor.values, stage, truth.shape, np.iscomplexobj(truth))
    values, notes = fitted.values, fitted.notes
    if not fitted.fits:
        note = f"shape {tensor.values.shape}, expected {truth.shape}"
        result = StageResult(stage, SHAPE, dtype=tensor.dtype, notes=(note, *notes))
        return result, values
    found = error(values, truth, floor.rms, limits(tensor.dtype, floor.unit))
    if found.verdict == WRONG and (values == values.flat[0]).all():
        notes += (f"every value is {values.flat[0]:g}",)
    steps, bad = None, ""
    if stage.time_axis is not None and truth.size:
        extra = truth.ndim - len(stage.axes)
        steps = step_errors(values, truth, stage.time_axis + extra)
        count = int(np.sum(~(steps <= BAD_STEP * floor.rms)))
        bad = f"{count} of {len(steps)} {WHAT[stage.axes[stage.time_axis]]}s bad"
    with np.errstate(invalid="ignore"):
        distance = np.abs(widen(values) - truth)
    result = StageResult(
        stage,
        found.verdict,
        found.noise,
        found.max_abs,
        place(stage, found.worst, truth.ndim),
        bad,
        tensor.dtype,
        notes,
        floor.rms,
        floor.unit,
        rms(truth),
        steps,
        distance,
    )
    return result, values


def judge_sample(
    stage: Stage,
    tensor: Tensor,
    truth: Array,
    floor: Floor,
    sampled: tuple[int, ...] | None,
    truth_sampled: tuple[int, ...] | None,
) -> StageResult:
    """The verdict where only `sample_positions` of the tensor, the truth or both are there.

    sampled, truth_sampled: the shape of the whole tensor; None if the tensor itself is whole.
    """
    values = tensor.values if sampled else as_real(tensor.values)
    truth = truth if truth_sampled else as_real(truth)
    shape = truth_sampled or truth.shape
    if not sampled:
        values = fit(values, stage, shape).values
    if (sampled or values.shape) != shape:
        note = f"shape {sampled or values.shape}, expected {shape}"
        return StageResult(stage, SHAPE, dtype=tensor.dtype, notes=(note,))
    mine = values if sampled else at_positions(stage, values)
    theirs = truth if truth_sampled else at_positions(stage, truth)
    found = error(mine, theirs, floor.rms, limits(tensor.dtype, floor.unit))
    note = f"{len(sample_positions(stage, math.prod(shape)))} sampled positions"
    return StageResult(
        stage,
        found.verdict,
        found.noise,
        found.max_abs,
        dtype=tensor.dtype,
        notes=(note,),
        unit=floor.unit,
    )


def place(stage: Stage, index: tuple[int, ...], ndim: int) -> str:
    """An index in words: `mel 3, frame 0, 0.00 s`."""
    names = axis_names(stage, ndim)
    words = [f"{name} {i}" for name, i in zip(names, index, strict=False)]
    for name, i in zip(names, index, strict=False):
        if name in ("frame", "position", "query"):
            hop = HOP_LENGTH if name == "frame" else 2 * HOP_LENGTH
            words.append(f"{i * hop / SAMPLE_RATE:.2f} s")
            break
    return ", ".join(words)
