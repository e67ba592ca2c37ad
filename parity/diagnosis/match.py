"""Does a mistake explain the candidate: is what is left, once it is assumed, noise?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..files.fit import fit
from ..mistakes.entry import EncoderMistake, FrontEndMistake
from ..noise import NOISY_LIMIT, PASS_LIMIT, Array, rms, widen
from ..pipeline import Pipeline
from ..stages import Stage

Entry = FrontEndMistake | EncoderMistake
NEARER = 30.0  # times nearer than the truth, for a candidate noisier than ours
TINY = 2.0**-126  # the smallest normal float32


class Candidate(NamedTuple):
    """The tensor of the first wrong stage, and what is known of the stages before it."""

    pipeline: Pipeline
    stage: Stage
    values: Array  # in our layout, or, with another shape, as given
    truth: Array
    floor: float  # one unit of noise
    dtype: str
    error: float  # in units of noise, against the truth; infinite for another shape
    passed: Stage | None  # the last stage before it that passed


class Named(NamedTuple):
    """A mistake, or two made at once, that gives the candidate's numbers."""

    entries: tuple[Entry, ...]
    residual: float  # what is left, in units of noise, once it is assumed
    without: float  # what is left without it - for two at once, with the better one alone

    @property
    def name(self) -> str:
        return " + ".join(entry.name for entry in self.entries)


class Diagnosis(NamedTuple):
    """What the catalogue says of a wrong tensor."""

    named: list[Named]  # best first; entries that cannot be told apart stand side by side
    nearest: Named | None = None  # if none fits
    telling: Stage | None = None  # the stage that would tell those entries apart
    tried: tuple[Named, ...] = ()  # the nearest few, whether they fit or not
    right: bool = False  # float64 gives the same: the shape is wrong, or the reference


def fits(candidate: Candidate, named: Named, noisier: bool) -> bool:
    """Is what is left noise? With `noisier`, also that of a port noisier than ours."""
    limit = PASS_LIMIT[candidate.dtype]
    if named.residual <= limit:
        return named.without >= 2 * named.residual
    return (
        noisier
        and named.residual <= NOISY_LIMIT * limit
        and named.without >= NEARER * named.residual
    )


def residual(candidate: Candidate, variant: Array) -> float:
    """rms of candidate less variant, in units of noise; infinite for another shape.

    A mistake that makes a tensor larger than the truth makes its noise larger by as much.
    """
    values = candidate.values
    if values.shape != variant.shape:
        fitted = fit(values, candidate.stage, variant.shape, np.iscomplexobj(variant))
        if not fitted.fits:
            return float("inf")
        values = fitted.values
    with np.errstate(invalid="ignore"):
        distance = widen(values) - variant
    distance[values == variant] = 0  # infinities too: a mask's
    larger = rms(variant) / max(rms(candidate.truth), TINY)
    unit = candidate.floor * (max(1.0, larger) if np.isfinite(larger) else 1.0)
    noise = rms(distance) / unit
    return noise if np.isfinite(noise) else float("inf")


def possible(candidate: Candidate, entry: Entry) -> bool:
    """Could this entry have spoilt this stage, given the last stage that passed?"""
    if entry.stage.order > candidate.stage.order:
        return False
    return candidate.passed is None or entry.stage.order > candidate.passed.order
