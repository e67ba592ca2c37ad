"""Compare a port's stage tensors with the truth: the first wrong stage, and the mistake."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arithmetic.found import Arithmetic, arithmetics
from ..arithmetic.hidden import hidden
from ..arithmetic.kinds import AS_STORED, EXACT
from ..diagnosis.diagnose import diagnose
from ..diagnosis.encoder import variant
from ..diagnosis.match import Candidate, Diagnosis, Named, fits, residual
from ..files.tensors import Dump, as_tensor, read
from ..mistakes.entry import EncoderMistake
from ..noise import MISSING, PASS, QUANTISED, SHAPE, UNITS, limits, unit_line
from ..pipeline import Pipeline
from ..resolve import DEFAULT, resolve
from ..stages import ParityError, Stage
from .accept import Accept, accept_up_to, accepted_units
from .expected import expected
from .fewer_bits import (
    FEWER_BITS,
    Again,
    Compared,
    add_costs,
    in_words,
    may_be_fewer_bits,
)
from .hints import FIXED, advice, lacking, of_its_length
from .one_stage import judge, judge_sample
from .report import Report, StageResult

NEAR = 0.9  # a mistake that explains part of the error leaves less than this of it
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
    computed_in: str | None = None,
    quantised: str | None = None,
    accept: Accept = None,
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
    computed_in: what the encoder's products round their factors to, though the tensors are
        float32: float16, bfloat16, tf32, or q8_0, int8, int8-tensor for activations. The unit of
        noise is then the error of a right port that does so. None: found where every wrong stage
        is off by just that; "float32": nothing of that kind is right.
    quantised: what the weights are stored in, such as q8_0 (`arithmetic.kinds.STORED`): the truth
        is computed with such weights. None: found, and then called QUANTISED; "none": not right.
    accept: units of noise up to which a stage that is off on purpose is ACCEPTED: a number, a
        mapping of stage to number, or the path of a JSON file that holds one.

    Raises ParityError (a ValueError) for what cannot be compared. Returns a Report.
    """
    given = load(mine)
    held = load(reference) if reference is not None else None
    options = (audio, model, n_mels, convention, pad_to, check_range)
    pipeline, staged, staged_held = resolve(given, held, *options)
    pipeline = pipeline.in_fewer_bits(computed_in, quantised)
    return compare_with(pipeline, staged, staged_held, forced, accept)


def compare_with(
    pipeline: Pipeline,
    given: Dump[Stage],
    held: Dump[Stage] | None = None,
    forced: bool = False,
    accept: Accept = None,
) -> Report:
    """`compare`, with a pipeline that may have been compared with before."""
    if not given.tensors:
        raise ParityError("no tensors were given")
    units = accepted_units(accept, given.tensors, pipeline.n_layer)

    def again(pipeline: Pipeline) -> Compared:
        judged = judge_all(pipeline, given, held, forced)
        accept_up_to(judged.report, units)
        add_costs(judged.report, judged.candidates)
        return judged

    report = diagnosed(again(pipeline), again, given.sampled, held is None and not forced)
    if report.ok and report.stages:
        words = {stage.name: stage.floor for stage in report.stages if stage.unit not in UNITS}
        whole = pipeline.in_fewer_bits(report.computed_in, report.quantised) if words else pipeline
        report.hidden = hidden(whole, words)
    return report


def diagnosed(judged: Compared, again: Again, sampled: Mapping[str, Any], free: bool) -> Report:
    """The report with what explains its first wrong stage, if anything was found out of place.

    free: the truth is computed here from the clip, so that it can be computed in fewer bits too.
    """
    report, wrong = judged.report, judged.report.first_wrong
    if wrong is None:
        return report
    candidate = judged.candidates[wrong.name]
    pipeline = candidate.pipeline
    report.lacking = lacking(pipeline, wrong.name, wrong.name in sampled)
    if report.lacking:
        return report
    if free:
        return explained(judged, again)
    report.diagnosis = diagnose(of_its_length(candidate))
    return report


def explained(judged: Compared, again: Again) -> Report:
    """The report with what explains its first wrong stage: fewer bits, a mistake, or both."""
    report, candidate = judged.report, judged.wrong
    assert candidate is not None
    searched = may_be_fewer_bits(candidate, report.first_wrong)
    bits = arithmetics(candidate) if searched else []
    for found in bits:
        if found.clear:
            return in_fewer_bits(judged, found, again)
    report.diagnosis = diagnose(of_its_length(candidate))
    if report.diagnosis.named or report.diagnosis.right or not searched:
        return report
    for found in bits:
        other = in_fewer_bits(judged, found, again)
        if all(stage.verdict in (PASS, QUANTISED) for stage in other.stages):
            return other
    for named in report.diagnosis.tried:
        both = on_top(judged, named, again)
        if both:
            return both
    return report


def in_fewer_bits(
    judged: Compared, found: Arithmetic, again: Again, diagnosis: Diagnosis | None = None
) -> Report:
    """The report of the same tensors in this arithmetic."""
    found, other = as_far_as(judged, found, again)
    report = other.report
    report.found = in_words(other)
    asked = next(iter(judged.candidates.values())).pipeline.stored_in
    if asked is None and found.stored_in != AS_STORED:
        was = {stage.name: stage.verdict for stage in judged.report.stages}
        for stage in report.stages:
            if stage.verdict == PASS and was.get(stage.name) != PASS:
                stage.verdict = QUANTISED
    wrong = other.wrong
    if wrong is not None and report.first_wrong and report.first_wrong.verdict != QUANTISED:
        report.diagnosis = diagnosis or diagnose(of_its_length(wrong))
    return report


def as_far_as(judged: Compared, found: Arithmetic, again: Again) -> tuple[Arithmetic, Compared]:
    """The verdicts in this arithmetic, or in one that explains a later stage as well.

    The stem shows what convolutions are computed in, and only the blocks how weights are stored.
    """
    pipeline = next(iter(judged.candidates.values())).pipeline
    other = again(pipeline.in_fewer_bits(found.computed_in, found.stored_in))
    wrong = other.wrong
    if wrong is None or found.stored_in != AS_STORED or pipeline.stored_in is not None:
        return found, other
    later = judged.candidates[wrong.stage]._replace(passed=wrong.passed)
    for both in arithmetics(later):
        if both.clear and both.stored_in != AS_STORED:
            if both.computed_in == EXACT:
                both = both._replace(computed_in=found.computed_in)
            more = again(pipeline.in_fewer_bits(both.computed_in, both.stored_in))
            if more.wrong is None or more.wrong.stage.order > wrong.stage.order:
                return both, more
    return found, other


def on_top(judged: Compared, named: Named, again: Again) -> Report | None:
    """The report in the arithmetic in which this mistake gives the candidate's numbers, if any."""
    candidate, entry = judged.wrong, named.entries[0]
    assert candidate is not None
    if not isinstance(entry, EncoderMistake) or entry.name in FEWER_BITS:
        return None
    if named.residual > NEAR * candidate.error:
        return None
    mistaken = candidate._replace(truth=variant(candidate, entry))
    for found in arithmetics(mistaken, entry):
        pipeline = candidate.pipeline.in_fewer_bits(found.computed_in, found.stored_in)
        wrong = again(pipeline).candidates[candidate.stage]
        both = Named((entry,), residual(wrong, variant(wrong, entry)), wrong.error)
        if fits(wrong, both, noisier=False):
            return in_fewer_bits(judged, found, again, Diagnosis([both]))
    return None


def judge_all(
    pipeline: Pipeline, given: Dump[Stage], held: Dump[Stage] | None, forced: bool
) -> Compared:
    """The verdict on every stage given, and the stages that are missing."""
    truth, floors = expected(pipeline, given, held, forced)
    results: list[StageResult] = []
    candidates: dict[Stage, Candidate] = {}
    passed = None
    for stage, tensor in given.tensors.items():
        sampled = given.sampled.get(stage), held.sampled.get(stage) if held else None
        values = tensor.values
        if any(sampled):
            result = judge_sample(stage, tensor, truth[stage], floors[stage], *sampled)
        else:
            result, values = judge(stage, tensor, truth[stage], floors[stage])
        if result.verdict == SHAPE and pipeline.audio is not None:
            notes = advice(pipeline, stage, values.shape, truth[stage].shape)
            # No option gives a reference another shape.
            result.notes += (FIXED,) if notes and held else notes
        results.append(result)
        off = result.noise if np.isfinite(result.noise) else math.inf
        kind = limits(tensor.dtype, floors[stage].unit)
        about = (values, truth[stage], floors[stage].rms, kind, off, passed)
        candidates[stage] = Candidate(pipeline, stage, *about)
        if result.verdict == PASS:
            passed = stage
    missing = [s for s in truth if s not in given.tensors] if held else []
    results += [StageResult(stage, MISSING, notes=("not given",)) for stage in missing]
    report = Report(results, forced=forced, about=[pipeline.describe()])
    report.about.append(unit_line(*(floors[stage].unit for stage in given.tensors)))
    report.computed_in, report.quantised = pipeline.computed_in, pipeline.stored_in
    return Compared(report, candidates)


def load(source: Source) -> Dump[str]:
    if isinstance(source, Mapping):
        return Dump({name: as_tensor(v, name) for name, v in source.items()}, {})
    return read(source)
