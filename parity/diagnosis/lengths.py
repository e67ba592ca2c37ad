"""Mistakes that have a length, which the candidate itself tells or which people often use."""

from __future__ import annotations

import numpy as np

from ..mistakes.entry import EncoderMistake
from ..mistakes.pieces import cut_up, of_period
from ..noise import step_errors
from .match import Candidate

STANDS_OUT = 2.0  # times as large as at most steps: the error at every n-th


def of_some_length(candidate: Candidate) -> list[EncoderMistake]:
    """Entries for the lengths at which the candidate may have been cut up."""
    config = candidate.pipeline.needed_model().config
    entries = cut_up(config.n_audio_ctx, config.n_audio_state, config.n_audio_head)
    n = period(candidate)
    return [*entries, *(of_period(n, candidate.stage.axes[-1] == "F") if n else [])]


def period(candidate: Candidate) -> int | None:
    """The n of which every n-th frame or position is worse than the others; None if there is none.

    The first of a piece is taken for it: 50, 100, 150.
    """
    stage, truth = candidate.stage, candidate.truth
    if stage.time_axis is None or candidate.values.shape != truth.shape:
        return None
    errors = step_errors(candidate.values, truth, stage.time_axis + truth.ndim - len(stage.axes))
    usual = float(np.median(errors))
    # Of the errors at every n-th step nearly all are large, if n is the length or a multiple of it.
    lengths = range(2, len(errors) // 2 + 1)
    sizes = [float(np.quantile(errors[n::n], 0.2)) for n in lengths]
    if not sizes or not max(sizes) > STANDS_OUT * max(usual, candidate.floor):
        return None
    return next(n for n, size in zip(lengths, sizes, strict=True) if size > max(sizes) / 2)
