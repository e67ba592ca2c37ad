"""Whether fewer bits may explain a wrong stage, how far they do, and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..diagnosis.match import Candidate
from ..noise import WRONG, rms
from ..pipeline import Pipeline
from ..stages import Stage
from .report import Report, StageResult


class Compared(NamedTuple):
    """The verdicts, and the tensors that they are of."""

    report: Report
    candidates: dict[Stage, Candidate]

    @property
    def wrong(self) -> Candidate | None:
        first = self.report.first_wrong
        return self.candidates[first.name] if first else None


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


def in_words(judged: Compared) -> str:
    pipeline = next(iter(judged.candidates.values())).pipeline
    return pipeline.fewer_bits.removeprefix(", ")


def add_costs(report: Report, candidates: dict[Stage, Candidate]) -> None:
    """Say of each encoder stage how far quantised weights take even a right port."""
    pipelines = {id(c.pipeline): c.pipeline for c in candidates.values()}
    for pipeline in pipelines.values():
        if pipeline.whole is None:
            continue
        stages = [stage for stage in candidates if not stage.of_front_end]
        full = pipeline.whole.encoder_truth(stages) if stages else {}
        for result in report.stages:
            if result.name in full:
                truth = full[result.name]
                result.cost = rms(candidates[result.name].truth - truth) / rms(truth)
