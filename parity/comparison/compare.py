"""Compare a port's stage tensors with the truth: the first wrong stage, and the mistake."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from ..diagnosis.diagnose import diagnose
from ..diagnosis.match import Candidate, Diagnosis
from ..diagnosis.symptoms import certain, narrow_types, places_of, symptoms
from ..files.rounding import said, with_rounding
from ..files.tensors import Dump, collect, read
from ..noise import MISSING, PASS, SHAPE, unit_line
from ..pipeline import Pipeline
from ..resolve import DEFAULT, resolve
from ..stages import LN_POST, ParityError, Stage
from .blind import blind
from .expected import expected
from .hints import FIXED, advice, lacking, of_its_length
from .one_stage import judge, judge_sample
from .printed import ONLY_PRINTED, check_printed, judge_printed
from .report import Report, StageResult

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

    mine: stage name to array or tensor, or the path of an .npz, .safetensors, .npy or folder of
        .npy, of raw float32 (.bin, .f32), of .txt, .csv or .json, or of a list of printed values.
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
    check_printed(given, held, forced)
    narrow = narrow_types({s: t for s, t in given.tensors.items() if not t.printed})
    kept = {s: t._replace(dtype=narrow.get(s, t.dtype)) for s, t in given.tensors.items()}
    given = given._replace(tensors=kept)
    truth, floors = expected(pipeline, given, held, forced)
    floors, rounded = with_rounding(given, truth, floors)
    results: list[StageResult] = []
    candidates: dict[str, Candidate] = {}
    passed = None
    before: dict[Stage, Any] = {}  # what the truth is computed from, if it is forced
    for stage, tensor in given.tensors.items():
        sampled = given.sampled.get(stage), held.sampled.get(stage) if held else None
        values = tensor.values
        if any(sampled):
            result = judge_sample(stage, tensor, truth[stage], floors[stage], *sampled)
        elif tensor.printed:
            result = judge_printed(stage, tensor, truth[stage], floors[stage], pipeline)
        else:
            result, values = judge(stage, tensor, truth[stage], floors[stage])
        if result.verdict == SHAPE and pipeline.audio is not None and not tensor.printed:
            notes = advice(pipeline, stage, values.shape, truth[stage].shape)
            # No option gives a reference another shape.
            result.notes += (FIXED,) if notes and held else notes
        result.notes = (*tensor.notes, *result.notes, *said(rounded.get(stage), result.verdict))
        if kind := narrow.get(stage):
            result.notes += (f"every value is a {kind} number: judged as {kind}",)
        results.append(result)
        off = result.noise if np.isfinite(result.noise) else math.inf
        about = (
            values,
            truth[stage],
            floors[stage].rms,
            tensor.dtype,
            off,
            passed,
            dict(before) if forced else None,
        )
        candidates[stage] = Candidate(pipeline, stage, *about)
        if result.verdict == PASS or (forced and result.verdict != SHAPE):
            passed, before[stage] = stage, values
    missing = [s for s in truth if s not in given.tensors] if held else []
    results += [StageResult(stage, MISSING, notes=("not given",)) for stage in missing]
    report = Report(results, forced=forced, about=[pipeline.describe()])
    report.about.append(unit_line(*(floors[stage].unit for stage in given.tensors)))
    report.about += given.left_out
    wrong = report.first_wrong
    if wrong is not None:
        report.lacking = lacking(pipeline, wrong.name, wrong.name in given.sampled)
        if given.tensors[wrong.name].printed:
            report.lacking = ONLY_PRINTED
        candidate, last = candidates[wrong.name], candidates.get(LN_POST)
        if not report.lacking:
            proven = Diagnosis(certain(candidate, last))
            report.diagnosis = proven if proven.named else diagnose(of_its_length(candidate))
    look(report, candidates)
    whole = {s.name: (s.dtype, s.floor) for s in report.stages if s.distance is not None}
    report.find_blind = partial(blind, pipeline, whole)
    return report


def look(report: Report, candidates: Mapping[str, Candidate]) -> None:
    """Put down what can be seen where no mistake is named, and which places of a PASS are bad."""
    found = report.diagnosis
    for stage in report.stages:
        if stage.distance is None:  # of another shape, or a sample
            continue
        if stage is report.first_wrong and not (found and (found.named or found.right)):
            stage.seen, stage.exact = symptoms(candidates[stage.name])
        elif stage is report.first_wrong or (report.ok and stage.bad):
            stage.seen = places_of(candidates[stage.name])


def load(source: Source) -> Dump[str]:
    if isinstance(source, Mapping):
        return collect(source.items(), "what was given")
    return read(source)
