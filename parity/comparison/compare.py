"""Compare a port's stage tensors with the truth: the first wrong stage, and the mistake."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..diagnosis.diagnose import diagnose
from ..diagnosis.encoder import input_of
from ..diagnosis.match import Candidate
from ..files.tensors import Dump, as_tensor, read
from ..noise import MISSING, NOISY, PASS, UNJUDGED, WRONG, unit_line, widen
from ..pipeline import Pipeline
from ..resolve import DEFAULT, resolve
from ..stages import FRONT_END, ParityError, Stage
from .expected import truth_of
from .hints import FIXED, advice, lacking, of_its_length, unlike
from .lengths import expected_lengths, read_lengths, shapes_of
from .one_stage import judge, judge_sample
from .repeat import as_call
from .report import Report, StageResult
from .resampling import without_it, without_resampling
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
    arguments = dict(locals())
    given = load(mine)
    held = load(reference) if reference is not None else None
    options = (audio, model, n_mels, convention, pad_to, check_range)
    report = compare_with(*resolve(given, held, *options), forced=forced)
    report.repeat = as_call("parity.compare", compare, arguments)
    return report


def compare_with(
    pipeline: Pipeline, given: Dump[Stage], held: Dump[Stage] | None = None, forced: bool = False
) -> Report:
    """`compare`, with a pipeline that may have been compared with before."""
    if not given.tensors:
        raise ParityError("no tensors were given")
    results: dict[Stage, StageResult] = {}
    candidates: dict[Stage, Candidate | None] = {}
    weighed: dict[Stage, Candidate | None] = {}
    shapes = shapes_of(pipeline, given, None) if pipeline.audio is not None else {}
    for count, window in enumerate(windows_of(pipeline, given, held, shapes)):
        judged = judge_stages(*window, forced)
        for stage, result in judged.results.items():
            if count:
                result.worst = result.worst and f"window {count}, {result.worst}"
            if stage not in results or worse(result, results[stage]):
                results[stage] = result
                candidates[stage] = judged.candidates.get(stage)
                weighed[stage] = judged.weighed.get(stage)
    missing = [s for s in truth_of(held) if s not in given.tensors] if held else []
    stages = [*results.values(), *(StageResult(s, MISSING, notes=("not given",)) for s in missing)]
    about = replace(judged.pipeline, audio=pipeline.audio, clip_name=pipeline.clip_name)
    about = replace(about, windows=count + 1)
    report = Report(stages, forced=forced, about=[about.describe()], options=about.facts())
    if any(weighed.values()):
        report.hints.append(without_it(pipeline))
    if units := [result.unit for result in results.values() if result.unit]:
        report.about.append(unit_line(*units))
    name_mistakes(report, pipeline, {*given.sampled}, candidates, weighed)
    return report


def name_mistakes(
    report: Report,
    pipeline: Pipeline,
    sampled: set[str],
    candidates: Mapping[Stage, Candidate | None],
    weighed: Mapping[Stage, Candidate | None],
) -> None:
    """Put the mistakes of the first wrong stage into the report; if forced, those of every one."""
    for result in report.stages:
        if result.verdict == UNJUDGED and result.name.of_front_end:
            candidate = candidates[result.name]
            if candidate is not None and diagnose(candidate).named:  # exactly: no resampler
                result.verdict = WRONG
            break
    wrong = report.first_wrong
    if wrong is None:
        return
    report.lacking = lacking(pipeline, wrong.name, wrong.name in sampled)
    candidate = candidates[wrong.name]
    if not report.lacking and candidate is None:
        report.lacking = "no known mistake gives this shape"
    if report.lacking or candidate is None:
        return
    report.diagnosis = diagnose(of_its_length(candidate))
    other = weighed[wrong.name]
    if other is not None and not report.diagnosis.named:
        report.diagnosis = diagnose(other)
    for result in report.stages if report.forced else []:
        candidate = candidates[result.name]
        if result is not wrong and result.verdict in (NOISY, WRONG) and candidate is not None:
            alone = from_its_own_inputs(candidate, candidates)
            report.others[result.name] = diagnose(alone)


def from_its_own_inputs(
    candidate: Candidate, candidates: Mapping[Stage, Candidate | None]
) -> Candidate:
    """The candidate, with the stages before it as they were given and not as they should be."""
    before = {
        stage: widen(other.values)
        for stage, other in candidates.items()
        if other is not None
        and stage.order < candidate.stage.order
        and other.values.shape == other.truth.shape
    }
    pipeline, stage = replace(candidate.pipeline, put=before, runs=None), candidate.stage
    # A mistake that was made before as well is possible again: the inputs have it already.
    passed = max(before, key=lambda stage: stage.order)
    if stage.part == "stem":
        passed = FRONT_END[-1]
    elif not stage.of_front_end:
        block = (pipeline.n_layer or 1) - 1 if stage.block is None else stage.block
        passed = input_of(block) if input_of(block) in before else passed
    return candidate._replace(pipeline=pipeline, passed=passed)


class Verdicts(NamedTuple):
    """The verdicts on the stages of one window, and those that a mistake may be looked for in."""

    pipeline: Pipeline
    results: dict[Stage, StageResult]
    candidates: dict[Stage, Candidate]
    weighed: dict[Stage, Candidate | None]  # those whose clip was resampled, with weights


def judge_stages(
    pipeline: Pipeline, given: Dump[Stage], held: Dump[Stage] | None, forced: bool
) -> Verdicts:
    """The verdict on every stage given."""
    lengths = read_lengths(pipeline, given, held)
    pipeline = lengths.pipeline
    truth, floors = expected_lengths(lengths, given, held, forced)
    judged = Verdicts(pipeline, {}, {}, {})
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
        candidate = candidate._replace(view=view.cut) if view else candidate
        judged.candidates[stage] = candidate
        if result.verdict in (NOISY, WRONG) and passed is None and held is None:
            judged.weighed[stage] = without_resampling(result, candidate)
        if result.verdict == PASS:
            passed = stage
    return judged


def load(source: Source) -> Dump[str]:
    if isinstance(source, Mapping):
        return Dump({name: as_tensor(v, name) for name, v in source.items()}, {})
    return read(source)
