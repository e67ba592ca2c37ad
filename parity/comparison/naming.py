"""What explains the wrong stages: a mistake of the catalogue, or what can be seen in them."""

from __future__ import annotations

from functools import partial

import numpy as np

from ..diagnosis.diagnose import diagnose
from ..diagnosis.match import Candidate, Diagnosis, Named
from ..diagnosis.symptoms.certain import certain
from ..diagnosis.symptoms.describe import places_of, symptoms
from ..files.tensors import Dump
from ..noise import NOISY, UNJUDGED, WRONG
from ..stages import LN_POST, Stage
from .fewer_bits import Again, explained
from .hints import lacking, of_its_length
from .judging import Compared
from .printed import ONLY_PRINTED
from .reports.blind import blind
from .reports.report import Report, StageResult


def named_mistakes(judged: Compared, given: Dump[Stage], again: Again | None) -> Compared:
    """The comparison with the mistakes of its first wrong stage; if forced, of every wrong one.

    again: judges the same tensors in fewer bits; None if the truth is not computed from the clip.
    """
    report, candidates, pipeline = judged.report, judged.candidates, judged.pipeline
    for result in report.stages:
        if result.verdict == UNJUDGED and result.name.of_front_end:
            if diagnose(candidates[result.name]).named:  # exactly: no resampler
                result.verdict = WRONG
            break
    wrong = report.first_wrong
    if wrong is None:
        return judged
    report.lacking = lacking(pipeline, wrong.name, wrong.name in given.sampled)
    if wrong.name in given.tensors and given.tensors[wrong.name].printed:
        report.lacking = ONLY_PRINTED
    candidate = judged.wrong
    if not report.lacking and candidate is None:
        report.lacking = "no known mistake gives this shape"
    if report.lacking or candidate is None:
        return judged
    proven = certain(candidate, candidates.get(LN_POST)) or of_another_front_end(wrong, candidate)
    if proven:
        report.diagnosis = Diagnosis(proven)
    elif again is not None:
        judged = explained(judged, again)
    else:
        report.diagnosis = diagnose(of_its_length(candidate))
    found = judged.report.diagnosis
    if found is not None and not found.named and wrong.name in judged.weighed:
        report.diagnosis = diagnose(judged.weighed[wrong.name])
    for result in report.stages if report.forced else []:
        if result is not wrong and result.verdict in (NOISY, WRONG):
            report.others[result.name] = diagnose(candidates[result.name])
    return judged


def of_another_front_end(wrong: StageResult, candidate: Candidate) -> list[Named]:
    """Mistakes that give as many frames as there are, where these may be a part of Whisper's."""
    if not wrong.given or not candidate.stage.of_front_end:
        return []
    found = diagnose(candidate._replace(view=np.asarray)).named
    wrong.given = "" if found else wrong.given
    return found


def look(judged: Compared) -> None:
    """Put down what can be seen where no mistake is named, and which places of a PASS are bad."""
    report, candidates = judged.report, judged.candidates
    found = report.diagnosis
    for stage in report.stages:
        if stage.distance is None:  # of another shape, or a sample
            continue
        if stage is report.first_wrong and not (found and (found.named or found.right)):
            stage.seen, stage.exact = symptoms(candidates[stage.name])
        elif stage is report.first_wrong or (report.ok and stage.bad):
            stage.seen = places_of(candidates[stage.name])
    report.find_blind = partial(blind, judged.pipeline, whole_stages(report))


def whole_stages(report: Report) -> dict[Stage, tuple[str, float]]:
    """The type and the unit of noise of each stage that was given whole."""
    return {
        stage.name: (stage.dtype, stage.floor)
        for stage in report.stages
        if stage.distance is not None and not stage.given
    }
