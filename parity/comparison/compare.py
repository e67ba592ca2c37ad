"""Compare a port's stage tensors with the truth: the first wrong stage, and the mistake."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..diagnosis.diagnose import diagnose
from ..diagnosis.match import Candidate
from ..files.tensors import Dump, as_tensor, read
from ..noise import MISSING, PASS, unit_line
from ..pipeline import Pipeline
from ..resolve import DEFAULT, resolve
from ..stages import ParityError, Stage
from .expected import truth_of
from .hints import FIXED, advice, lacking, of_its_length, unlike
from .lengths import expected_lengths, read_lengths, shapes_of
from .one_stage import judge, judge_sample
from .report import Report, StageResult
from .windows import windows_of, worse

Source = Mapping[str, Any] | str | os.PathLike[str]


def compare(
    mine: Source,
    reference: Source | None = None,
    *,
    audio: Any = None,
    model: Any = None,
    n_mels: int | None = None,
    convention: Any = None,
    pad_to: Any = DEFAULT,
    check_range: bool = True,
    forced: bool = False,
) -> Report:
    """Judge stage tensors by the noise of their type, and name the mistake in the first wrong one.

    mine: stage name to array or tensor, or the path of an .npz, .safetensors, or folder of .npy.
        float16, bfloat16, float32 or float64; of the shapes that `melfront parity stages` lists,
        or with a batch axis of 1, transposed, or with the heads apart.
    reference: the same, as truth; without it the truth is computed by the float64 oracle for the
        clip and model given here or named in the file's metadata (default: the sample clip).
    audio: a file, an array (N,) of samples at 16 kHz, or a list of either for a batch.
    model: a WhisperEncoder, a local folder, a file, a Hub name, or formula:SIZE.
    n_mels, convention, check_range: as of `melfront.log_mel`.
    pad_to: seconds that the clip is padded to; None for its own length (default: 30).
    forced: each stage's truth is computed from the candidate's own stages before it, which tells
        an op that is wrong from one that inherits an error.

    Raises ParityError (a ValueError) for what cannot be compared. Returns a Report.
    """
    given = load(mine)
    held = load(reference) if reference is not None else None
    options = (audio, model, n_mels, convention, pad_to, check_range)
    return compare_with(*resolve(given, held, *options), forced=forced)


def compare_with(
    pipeline: Pipeline, given: Dump[Stage], held: Dump[Stage] | None = None, forced: bool = False
) -> Report:
    """`compare`, with a pipeline that may have been compared with before."""
    if not given.tensors:
        raise ParityError("no tensors were given")
    results: dict[Stage, StageResult] = {}
    candidates: dict[Stage, Candidate] = {}
    shapes = shapes_of(pipeline, given, None) if pipeline.audio is not None else {}
    for count, window in enumerate(windows_of(pipeline, given, held, shapes)):
        judged = judge_stages(*window, forced)
        for stage, result in judged.results.items():
            if count:
                result.worst = result.worst and f"window {count}, {result.worst}"
            if stage not in results or worse(result, results[stage]):
                results[stage] = result
                candidates.pop(stage, None)
                if stage in judged.candidates:
                    candidates[stage] = judged.candidates[stage]
    missing = [s for s in truth_of(held) if s not in given.tensors] if held else []
    stages = [*results.values(), *(StageResult(s, MISSING, notes=("not given",)) for s in missing)]
    about = replace(judged.pipeline, audio=pipeline.audio, clip_name=pipeline.clip_name)
    report = Report(stages, forced=forced, about=[replace(about, windows=count + 1).describe()])
    if units := [result.unit for result in results.values() if result.unit]:
        report.about.append(unit_line(*units))
    wrong = report.first_wrong
    if wrong is not None:
        report.lacking = lacking(pipeline, wrong.name, wrong.name in given.sampled)
        if not report.lacking and wrong.name not in candidates:
            report.lacking = "no known mistake gives this shape"
        if not report.lacking:
            report.diagnosis = diagnose(of_its_length(candidates[wrong.name]))
    return report


class Verdicts(NamedTuple):
    """The verdicts on the stages of one window, and those that a mistake may be looked for in."""

    pipeline: Pipeline
    results: dict[Stage, StageResult]
    candidates: dict[Stage, Candidate]


def judge_stages(
    pipeline: Pipeline, given: Dump[Stage], held: Dump[Stage] | None, forced: bool
) -> Verdicts:
    """The verdict on every stage given."""
    lengths = read_lengths(pipeline, given, held)
    pipeline = lengths.pipeline
    truth, floors = expected_lengths(lengths, given, held, forced)
    judged = Verdicts(pipeline, {}, {})
    passed = None
    for stage, tensor in given.tensors.items():
        if stage in lengths.hopeless:
            judged.results[stage] = unlike(stage, tensor, lengths.shapes[stage])
            continue
        sampled = given.sampled.get(stage), held.sampled.get(stage) if held else None
        view = lengths.views.get(stage)
        values = tensor.values
        if any(sampled):
            result = judge_sample(stage, tensor, truth[stage], floors[stage], *sampled)
        else:
            tensor = tensor._replace(values=view.values) if view else tensor
            result, values = judge(stage, tensor, truth[stage], floors[stage])
        if result.verdict != PASS and pipeline.audio is not None:
            notes = advice(pipeline, stage, values.shape, lengths.shapes.get(stage, values.shape))
            # No option gives a reference another shape.
            result.notes += (FIXED,) if notes and held else notes
        result.given = view.words if view else ""
        judged.results[stage] = result
        off = result.noise if np.isfinite(result.noise) else math.inf
        about = (values, truth[stage], floors[stage].rms, tensor.dtype, off, passed)
        candidate = Candidate(pipeline, view.source if view else stage, *about)
        judged.candidates[stage] = candidate._replace(view=view.cut) if view else candidate
        if result.verdict == PASS:
            passed = stage
    return judged


def load(source: Source) -> Dump[str]:
    if isinstance(source, Mapping):
        return Dump({name: as_tensor(v, name) for name, v in source.items()}, {})
    return read(source)
