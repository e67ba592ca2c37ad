"""Whether fewer bits may explain a wrong stage, how far they do, and what they cost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..arithmetic.found import Arithmetic, arithmetics
from ..arithmetic.kinds import AS_STORED, EXACT
from ..diagnosis.diagnose import diagnose
from ..diagnosis.encoder import variant
from ..diagnosis.match import Candidate, Diagnosis, Named, cut, fits, residual
from ..mistakes.entry import EncoderMistake
from ..noise import PASS, QUANTISED, WRONG, rms
from ..pipeline import Pipeline
from .hints import of_its_length
from .judging import Compared
from .reports.report import StageResult

NEAR = 0.9  # a mistake that explains part of the error leaves less than this of it
# Entries of the catalogue that are fewer bits themselves.
FEWER_BITS = ("weights in bfloat16", "weights in float16", "weights in int8", "TF32 products")
Again = Callable[[Pipeline], Compared]  # judge the same tensors, with the pipeline in fewer bits


def may_be_fewer_bits(candidate: Candidate, result: StageResult | None) -> bool:
    """Is there a whole encoder tensor of float32, finite, that was computed in who knows what?"""
    pipeline, values = candidate.pipeline, candidate.values
    return (
        result is not None
        and result.verdict == WRONG
        and (pipeline.computed_in is None or pipeline.stored_in is None)
        and pipeline.model is not None
        and pipeline.audio is not None
        and not candidate.stage.of_front_end
        and result.dtype in ("float32", "float64")
        and values.shape == candidate.truth.shape
        and bool(np.isfinite(values).all())
    )


def explained(judged: Compared, again: Again) -> Compared:
    """The comparison with what explains its first wrong stage: fewer bits, a mistake, or both."""
    report, candidate = judged.report, judged.wrong
    assert candidate is not None
    searched = may_be_fewer_bits(candidate, report.first_wrong)
    bits = arithmetics(candidate) if searched else []
    for found in bits:
        if found.clear:
            return in_fewer_bits(judged, found, again)
    report.diagnosis = diagnose(of_its_length(candidate))
    if report.diagnosis.named or report.diagnosis.right or not searched:
        return judged
    for found in bits:
        other = in_fewer_bits(judged, found, again)
        if all(stage.verdict in (PASS, QUANTISED) for stage in other.report.stages):
            return other
    for named in report.diagnosis.tried:
        both = on_top(judged, named, again)
        if both:
            return both
    return judged


def in_fewer_bits(
    judged: Compared, found: Arithmetic, again: Again, diagnosis: Diagnosis | None = None
) -> Compared:
    """The same tensors, judged in this arithmetic."""
    found, other = as_far_as(judged, found, again)
    report = other.report
    report.found = other.pipeline.fewer_bits.removeprefix(", ")
    if judged.pipeline.stored_in is None and found.stored_in != AS_STORED:
        was = {stage.name: stage.verdict for stage in judged.report.stages}
        for stage in report.stages:
            if stage.verdict == PASS and was.get(stage.name) != PASS:
                stage.verdict = QUANTISED
    wrong = other.wrong
    if wrong is not None and report.first_wrong and report.first_wrong.verdict != QUANTISED:
        report.diagnosis = diagnosis or diagnose(of_its_length(wrong))
    return other


def as_far_as(judged: Compared, found: Arithmetic, again: Again) -> tuple[Arithmetic, Compared]:
    """The verdicts in this arithmetic, or in one that explains a later stage as well.

    The stem shows what convolutions are computed in, and only the blocks how weights are stored.
    """
    pipeline = judged.pipeline
    other = again(pipeline.in_fewer_bits(found.computed_in, found.stored_in))
    first = other.report.first_wrong
    if other.wrong is None or first is None or first.name not in judged.candidates:
        return found, other
    if found.stored_in != AS_STORED or pipeline.stored_in is not None:
        return found, other
    later = judged.candidates[first.name]._replace(passed=other.wrong.passed)
    for both in arithmetics(later):
        if both.clear and both.stored_in != AS_STORED:
            if both.computed_in == EXACT:
                both = both._replace(computed_in=found.computed_in)
            more = again(pipeline.in_fewer_bits(both.computed_in, both.stored_in))
            if more.wrong is None or more.wrong.stage.order > other.wrong.stage.order:
                return both, more
    return found, other


def on_top(judged: Compared, named: Named, again: Again) -> Compared | None:
    """The comparison in the arithmetic in which this mistake gives the numbers, if there is one."""
    candidate, first, entry = judged.wrong, judged.report.first_wrong, named.entries[0]
    assert candidate is not None
    assert first is not None
    if not isinstance(entry, EncoderMistake) or entry.name in FEWER_BITS:
        return None
    if named.residual > NEAR * candidate.error:
        return None
    mistaken = candidate._replace(truth=variant(candidate, entry))
    for found in arithmetics(mistaken, entry):
        pipeline = judged.pipeline.in_fewer_bits(found.computed_in, found.stored_in)
        wrong = again(pipeline).candidates[first.name]
        both = Named((entry,), residual(wrong, variant(wrong, entry)), wrong.error)
        if fits(wrong, both, noisier=False):
            return in_fewer_bits(judged, found, again, Diagnosis([both]))
    return None


def add_costs(judged: Compared) -> None:
    """Say of each encoder stage how far quantised weights take even a right port."""
    whole = judged.pipeline.whole
    if whole is None:
        return
    inner = {s: c for s, c in judged.candidates.items() if not s.of_front_end}
    full = whole.encoder_truth({c.stage for c in inner.values()}) if inner else {}
    for result in judged.report.stages:
        candidate = inner.get(result.name)
        if candidate is None or candidate.given is not None:
            continue
        mine = candidate.pipeline
        if (mine.start, mine.whole_ctx) == (whole.start, whole.whole_ctx):
            truth = cut(candidate, full[candidate.stage])
            result.cost = rms(candidate.truth - truth) / rms(truth)
