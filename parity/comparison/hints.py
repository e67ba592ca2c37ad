"""What else a report says: what to ask for if a shape is wrong, and why there is no diagnosis."""

from __future__ import annotations

from dataclasses import replace

from melfront.conventions import HOP_LENGTH, SAMPLE_RATE

from ..diagnosis.match import Candidate
from ..files.tensors import Tensor
from ..noise import SHAPE
from ..pipeline import Pipeline
from ..stages import Stage
from .lengths.parts import FEW
from .reports.report import StageResult

FIXED = "give what the reference expects, or leave it out"


def advice(
    pipeline: Pipeline, stage: Stage, given: tuple[int, ...], expected: tuple[int, ...]
) -> tuple[str, ...]:
    """What to ask for if a tensor only has another number of frames, or of mel bins."""
    if len(given) != len(expected):
        return ()
    unlike = [axis - len(given) for axis, n in enumerate(given) if n != expected[axis]]
    if len(unlike) != 1 or -unlike[0] > len(stage.axes) or not given[unlike[0]]:
        return ()
    letter, frames = stage.axes[unlike[0]], given[unlike[0]]
    if letter == "M":
        return (f"for {frames} bins pass --n-mels {frames}, or a --model that has as many",)
    if letter != "F" or abs(frames - expected[unlike[0]]) <= FEW:  # that is a mistake, with a name
        return ()
    clip = max(len(clip) for clip in pipeline.clips.arrays)
    if abs(frames - clip // HOP_LENGTH) <= 1:
        return ("the clip's own length: pass --pad-to none, and port the padding to 30 s too",)
    seconds = frames * HOP_LENGTH / SAMPLE_RATE
    hop, rest = divmod(pipeline.length, frames)
    notes = [f"{frames} frames are {seconds:g} s: pass --pad-to {seconds:g} if that is meant"]
    if not rest and hop >= HOP_LENGTH // 4:
        notes.append(f"a hop of {hop} samples gives as many")
    return tuple(notes)


def lacking(pipeline: Pipeline, stage: Stage, sampled: bool) -> str:
    """What is missing to run the catalogue: the whole tensor, the clip, the model, or nothing."""
    if sampled:
        return "only a sample of it was given"
    if pipeline.audio is None:
        return "the clip is missing, pass it with --audio"
    if pipeline.model is None and not stage.of_front_end:
        return "the model is missing, pass it with --model"
    return ""


def unlike(stage: Stage, tensor: Tensor, shape: tuple[int, ...]) -> StageResult:
    """The result for a tensor that is no part of a stage of this shape."""
    note = f"shape {tensor.values.shape}, expected {shape}, or a part of that along time"
    return StageResult(stage, SHAPE, dtype=tensor.dtype, notes=(note,))


def of_its_length(candidate: Candidate) -> Candidate:
    """The candidate; if a few frames are missing, against a window that is shorter by as many.

    Frames that are not centred end before the window does.
    """
    pipeline, frames = candidate.pipeline, candidate.values.shape[-1:]
    short = pipeline.length // HOP_LENGTH - (frames[0] if frames else 0)
    if not 0 < short <= FEW or not candidate.stage.of_front_end or candidate.stage.axes[-1] != "F":
        return candidate
    shorter = replace(pipeline, pad_to=frames[0] * HOP_LENGTH / SAMPLE_RATE)
    truth = shorter.front_end_truth[candidate.stage]
    return candidate._replace(pipeline=shorter, truth=truth)
