"""Causes that the tensor itself proves, before any run of the catalogue.

# B batch  T positions  S state
"""

from __future__ import annotations

import numpy as np

from ...mistakes.encoder_blocks import OVERFLOW
from ...mistakes.encoder_stem import OTHER_WEIGHTS
from ...mistakes.front_end import ROWS_SWAPPED
from ...noise import BAD_STEP, EPS, Array, rms, widen
from ...stages import LN_POST
from ..match import Candidate, Named, fits, residual
from .view import UNRELATED, correlation

CHANCE = 4  # standard deviations of the correlation of numbers that have nothing in common
NORMS = ("attn_ln", "mlp_ln", "ln_post")
NORMED = 1e-2  # that the mean of a position may be off 0, and its deviation off 1: float16's too


@np.errstate(all="ignore")
def certain(candidate: Candidate, last: Candidate | None = None) -> list[Named]:
    """The cause that the candidate's own numbers prove, or those of the last stage, if given."""
    values, truth = candidate.values, candidate.truth
    if values.shape != truth.shape or not np.isfinite(values).all() or values.size < 2:
        return []
    for cause in (swapped_clips, overflown_norm):
        found = cause(candidate)
        if found is not None and fits(candidate, found, noisier=False):
            return [found]
    right = candidate.passed is not None and not candidate.passed.of_front_end
    if last and not candidate.stage.of_front_end and not right and never_loaded(last):
        return [Named((OTHER_WEIGHTS,), float("nan"), candidate.error)]
    return []


def swapped_clips(candidate: Candidate) -> Named | None:
    """Each clip of a batch against the truth of every clip."""
    values, truth = widen(candidate.values), candidate.truth
    if truth.ndim != len(candidate.stage.axes) + 1 or len(truth) < 2:
        return None
    source = [int(np.argmin([rms(mine - other) for other in truth])) for mine in values]
    if sorted(source) != list(range(len(truth))):  # each is there once
        return None
    return Named((ROWS_SWAPPED,), residual(candidate, truth[source]), candidate.error)


def overflown_norm(candidate: Candidate) -> Named | None:
    """The truth, with the norm's bias alone at the bad positions, if the candidate has it there."""
    model, stage, values = candidate.pipeline.model, candidate.stage, widen(candidate.values)
    if model is None or stage.within not in NORMS:
        return None
    name = stage if stage.block is None else f"blocks.{stage.block}.{stage.within}"
    bias = model.state_dict()[f"{name}.bias"].double().numpy()  # (S,)
    bad = np.sqrt(np.mean((values - candidate.truth) ** 2, -1)) > BAD_STEP * candidate.floor  # (T,)
    if (
        not bad.any()
        or not (np.abs(values[bad] - bias) <= 2 * EPS[candidate.dtype] * np.abs(bias)).all()
    ):
        return None
    variant = np.where(bad[..., None], bias, candidate.truth)  # (T, S)
    return Named((OVERFLOW,), residual(candidate, variant), candidate.error)


def never_loaded(candidate: Candidate) -> bool:
    """Are these the last hidden states of random weights? Their norm has scale 1 and no bias."""
    mine, truth = widen(candidate.values), candidate.truth
    if candidate.stage != LN_POST or mine.shape != truth.shape or not np.isfinite(mine).all():
        return False
    loaded = not as_if_unweighted(mine) or as_if_unweighted(truth)
    return not loaded and unrelated(candidate, 2 * UNRELATED)


def unrelated(candidate: Candidate, bound: float) -> bool:
    """Has an encoder's tensor nothing in common with the truth?

    Another clip would leave what every clip has in common: the mean of each channel.
    """
    stage, mine, truth = candidate.stage, widen(candidate.values), candidate.truth
    if mine.shape != truth.shape or not np.isfinite(mine).all():
        return False
    axis = truth.ndim - len(stage.axes) + (stage.time_axis or 0)
    channels = [x.mean(axis=axis, keepdims=True) for x in (mine, truth)]
    over_time = [x - mean for x, mean in zip((mine, truth), channels, strict=True)]
    if stage in ("positions", LN_POST) and candidate.pipeline.model is not None:
        positions = candidate.pipeline.model.state_dict()["positions"].double().numpy()
        over_time = [without(x, positions[: x.shape[-2]]) for x in over_time]
        mine, truth = (x + mean for x, mean in zip(over_time, channels, strict=True))
    by_chance = max(bound, CHANCE / np.sqrt(channels[0].size))
    alike = max(correlation(*over_time), correlation(mine, truth))
    return bool(alike <= bound and correlation(*channels) <= by_chance)


def without(x: Array, positions: Array) -> Array:
    """x (..., T, S) less as much of the positions as it holds: random weights come with them."""
    positions = positions - positions.mean(axis=0)
    share = (x * positions).sum(axis=(-2, -1), keepdims=True) / (positions**2).sum()
    return np.asarray(x - share * positions)


def as_if_unweighted(x: Array) -> bool:
    """Has each position mean 0 and variance 1, as a norm has whose weights were never loaded?"""
    mean, spread = x.mean(axis=-1), x.std(axis=-1)
    return bool((np.abs(mean) <= NORMED).all() and (np.abs(spread - 1) <= NORMED).all())
