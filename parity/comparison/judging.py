"""The verdict on every stage given, in every window of the clip."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..diagnosis.match import Candidate
from ..diagnosis.symptoms.values import narrow_types
from ..files.tensors import Dump, Tensor
from ..noise import MISSING, NOISY, PASS, SHAPE, WRONG, Array, Floor, limits, unit_line
from ..pipeline import Pipeline
from ..stages import Stage
from .expected import truth_of
from .hints import FIXED, advice, unlike
from .lengths.read import Lengths, expected_lengths, read_lengths, shapes_of
from .lengths.windows import windows_of, worse
from .one_stage import judge, judge_sample
from .printed import judge_printed
from .reports.report import Report, StageResult
from .resampling import without_it, without_resampling
from .rounding import said, with_rounding


class Compared(NamedTuple):
    """The verdicts, and the tensors that they are of, where a mistake may be looked for in them.

    weighed: the same, with their errors weighed by what is certain of a clip that was resampled.
    """

    pipeline: Pipeline
    report: Report
    candidates: dict[Stage, Candidate]
    weighed: dict[Stage, Candidate]

    @property
    def wrong(self) -> Candidate | None:
        first = self.report.first_wrong
        return self.candidates.get(first.name) if first else None


class OfWindow(NamedTuple):
    """The verdicts on the stages of one window."""

    pipeline: Pipeline
    results: dict[Stage, StageResult]
    candidates: dict[Stage, Candidate]
    weighed: dict[Stage, Candidate]


def judge_all(
    pipeline: Pipeline, given: Dump[Stage], held: Dump[Stage] | None, forced: bool
) -> Compared:
    """The verdict on every stage: that of the window in which it is worst."""
    results: dict[Stage, StageResult] = {}
    candidates: dict[Stage, Candidate] = {}
    weighed: dict[Stage, Candidate] = {}
    shapes = shapes_of(pipeline, given, None) if pipeline.audio is not None else {}
    for count, window in enumerate(windows_of(pipeline, given, held, shapes)):
        judged = judge_stages(*window, forced)
        for stage, result in judged.results.items():
            if count:
                result.worst = result.worst and f"window {count}, {result.worst}"
            if stage not in results or worse(result, results[stage]):
                results[stage] = result
                for kept, new in ((candidates, judged.candidates), (weighed, judged.weighed)):
                    kept.pop(stage, None)
                    kept |= {stage: new[stage]} if stage in new else {}
    missing = [s for s in truth_of(held) if s not in given.tensors] if held else []
    stages = [*results.values(), *(StageResult(s, MISSING, notes=("not given",)) for s in missing)]
    about = replace(judged.pipeline, audio=pipeline.audio, clip_name=pipeline.clip_name)
    about = replace(about, windows=count + 1)
    report = Report(stages, forced=forced, about=[about.describe()], options=facts(about))
    if weighed:
        report.hints.append(without_it(pipeline))
    if units := [result.unit for result in results.values() if result.unit]:
        report.about.append(unit_line(*units))
    report.about += given.left_out
    report.computed_in, report.quantised = pipeline.computed_in, pipeline.stored_in
    return Compared(pipeline, report, candidates, weighed)


def judge_stages(
    pipeline: Pipeline, given: Dump[Stage], held: Dump[Stage] | None, forced: bool
) -> OfWindow:
    """The verdict on every stage of a window."""
    narrow = narrow_types({s: t for s, t in given.tensors.items() if not t.printed})
    kept = {s: t._replace(dtype=narrow.get(s, t.dtype)) for s, t in given.tensors.items()}
    lengths = read_lengths(pipeline, given._replace(tensors=kept), held)
    pipeline = lengths.pipeline
    readable = {s: tensor for s, tensor in kept.items() if s not in lengths.hopeless}
    given = given._replace(tensors=readable)
    truth, floors = expected_lengths(lengths, given, held, forced)
    floors, rounded = with_rounding(given, truth, floors)
    judged = OfWindow(pipeline, {}, {}, {})
    passed = None
    before: dict[Stage, Array] = {}  # what the truth is computed from, if it is forced
    for stage, tensor in kept.items():
        if stage in lengths.hopeless:
            judged.results[stage] = unlike(stage, tensor, lengths.shapes[stage])
            continue
        sampled = given.sampled.get(stage), held.sampled.get(stage) if held else None
        about = truth[stage], floors[stage]
        result, values = judge_tensor(lengths, stage, tensor, *about, sampled)
        judged.results[stage] = result
        if result.verdict == SHAPE and held and any(result.notes[1:]):
            result.notes = (result.notes[0], FIXED)  # no option gives a reference another shape
        result.notes = (*tensor.notes, *result.notes, *said(rounded.get(stage), result.verdict))
        if stage in narrow:
            kind = narrow[stage]
            result.notes += (f"every value is a {kind} number: judged as {kind}",)
        candidate = candidate_of(lengths, result, values, *about, passed)
        judged.candidates[stage] = candidate._replace(given=dict(before) if forced else None)
        if result.verdict in (NOISY, WRONG) and passed is None and held is None:
            weighed = without_resampling(result, candidate)
            judged.weighed.update({stage: weighed} if weighed else {})
        if result.verdict == PASS or (forced and result.verdict != SHAPE):
            passed, before[stage] = stage, values
    return judged


def judge_tensor(
    lengths: Lengths,
    stage: Stage,
    tensor: Tensor,
    truth: Array,
    floor: Floor,
    sampled: tuple[tuple[int, ...] | None, tuple[int, ...] | None],
) -> tuple[StageResult, Array]:
    """The verdict on one tensor, and its values in our layout."""
    if any(sampled):
        return judge_sample(stage, tensor, truth, floor, *sampled), tensor.values
    if tensor.printed:
        return judge_printed(stage, tensor, truth, floor, lengths.pipeline), tensor.values
    view = lengths.views.get(stage)
    tensor = tensor._replace(values=view.values) if view else tensor
    result, values = judge(stage, tensor, truth, floor)
    if result.verdict != PASS and lengths.pipeline.audio is not None:
        expected = lengths.shapes.get(stage, values.shape)
        result.notes += advice(lengths.pipeline, stage, values.shape, expected)
    result.given = view.words if view else ""
    return result, values


def candidate_of(
    lengths: Lengths,
    result: StageResult,
    values: Array,
    truth: Array,
    floor: Floor,
    passed: Stage | None,
) -> Candidate:
    view = lengths.views.get(result.name)
    off = result.noise if np.isfinite(result.noise) else math.inf
    source = view.source if view else result.name
    about = (values, truth, floor.rms, limits(result.dtype, floor.unit), off, passed)
    candidate = Candidate(lengths.pipeline, source, *about)
    return candidate._replace(view=view.cut) if view else candidate


def facts(pipeline: Pipeline) -> dict[str, Any]:
    """What is compared, for programs."""
    model = pipeline.model
    return {
        "clip": pipeline.clip_name,
        "clip_sha256": pipeline.clip_digest if pipeline.audio is not None else None,
        "windows": pipeline.windows,
        "model": pipeline.model_name if model else None,
        "positions": model.config.n_audio_ctx if model else None,
        "n_mels": pipeline.n_mels if pipeline.bins_matter else None,
        "convention": pipeline.convention.name,
        "pad_to": pipeline.pad_to,
        "check_range": pipeline.check_range,
    }
