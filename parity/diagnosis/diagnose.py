"""Name the mistake: run the catalogue, and see which entry gives the candidate's own numbers.

An entry fits if the candidate is as near to it as a right port is to the truth. Where the truth
is far away, a candidate noisier than ours still fits the entry that it is thirty times nearer to;
and two mistakes at once are named only where they come so much nearer than any one alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..mistakes import ADDED_BIAS, ENCODER, FRONT_END, OVERFLOW, RESHAPED
from ..noise import NOISY_LIMIT, PASS_LIMIT, rms
from .encoder import through_encoder, try_encoder
from .forced import try_forced
from .front_end import simplest, telling_stage, try_front_end
from .lengths import of_some_length
from .match import TINY, Candidate, Diagnosis, Entry, Named, fits, possible, residual, takes_long
from .places import try_places, untried

SMALL = 100.0  # what was given is at least this many times its noise
FEW = 3  # of the entries tried, those that fewer bits may hide
FRONT_END_UNTRIED = (
    "of the front end's mistakes only the likeliest were tried: give the features too"
)
MOST = 10.0  # the nearest is worth a word if it leaves less than a part in so many


def diagnose(candidate: Candidate) -> Diagnosis:
    """Which known mistakes explain the candidate."""
    values, front_end = candidate.values, candidate.stage.of_front_end
    not_tried = ""
    if not values.size or np.isnan(values).any() or (front_end and not np.isfinite(values).all()):
        return Diagnosis([])  # only an attention mask gives infinities
    apart = [n for n in made_of_the_truth(candidate) if fits(candidate, n, noisier=False)]
    if apart:
        return Diagnosis(apart)
    if candidate.given is not None:
        tried = list(try_forced(candidate, forced_catalogue(candidate)))
    elif front_end:
        candidate, as_it_is = with_its_own_noise(candidate)
        if as_it_is <= PASS_LIMIT[candidate.dtype]:
            return Diagnosis([], right=True)
        tried = try_front_end(candidate, FRONT_END)
    else:
        for tried in of_the_encoder(candidate):
            if any(fits(candidate, named, noisier=True) for named in tried):
                break
        if candidate.error > NOISY_LIMIT:
            not_tried = untried(candidate)
        if candidate.passed is None and takes_long(candidate):
            not_tried += "; " * bool(not_tried) + FRONT_END_UNTRIED
    tried.sort(key=lambda named: named.residual)
    named = best(candidate, tried)
    if len(named) > 1:
        telling = telling_stage(candidate, (n.entries[0] for n in named))
        return Diagnosis(named, telling=telling)
    # A constant is near to anything.
    varied = values.size and (values != values.flat[0]).any()
    # Two at once, only where each does its part: `without` is what the better one alone leaves.
    worth = [n for n in tried if MOST * n.residual < min(candidate.error, n.without)]
    nearest = worth[0] if worth and not named and varied else None
    not_tried = "" if named else not_tried
    return Diagnosis(named, nearest, untried=not_tried, tried=tuple(tried[:FEW]))


def forced_catalogue(candidate: Candidate) -> Sequence[Entry]:
    """The entries of the candidate's half that can be told apart in it."""
    if candidate.stage.of_front_end:
        return simplest(FRONT_END, candidate.pipeline.convention, candidate.stage)
    return [*ENCODER, OVERFLOW, *of_some_length(candidate)]


def of_the_encoder(candidate: Candidate) -> Iterator[list[Named]]:
    """All that was tried so far, after each search: what is likely and quick comes first."""
    everywhere = list(try_encoder(candidate, ENCODER))
    yield everywhere
    # In some places only: of so many, one may suit the noise of a port that is merely noisy.
    wrong = candidate.error > NOISY_LIMIT

    def fitting(soon: bool) -> list[Named]:
        places = try_places(candidate, everywhere, soon) if wrong else []
        return [named for named in places if fits(candidate, named, noisier=True)]

    yield everywhere + fitting(soon=True)
    tried = everywhere + list(try_encoder(candidate, [OVERFLOW, *of_some_length(candidate)]))
    yield tried
    if candidate.passed is None:
        tried += through_encoder(candidate, FRONT_END)
        yield tried
    yield tried + fitting(soon=False)


def best(candidate: Candidate, tried: list[Named]) -> list[Named]:
    """Those that fit and that the numbers cannot tell from the best. tried: best first."""
    named = [n for n in tried if fits(candidate, n, noisier=False)] or [
        n for n in tried if fits(candidate, n, noisier=True)
    ]
    named = [n for n in named if n.residual <= max(2 * named[0].residual, 1.0)]
    if not candidate.stage.of_front_end and candidate.passed:
        # What would have spoilt an earlier stage was made in this block only, which is rarer.
        named = [n for n in named if possible(candidate, n.entries[0])] or named
    alone = [n for n in named if len(n.entries) == 1]
    return alone or named


def with_its_own_noise(candidate: Candidate) -> tuple[Candidate, float]:
    """The candidate with a unit of noise that suits its own size, and its error in that unit.

    A tensor of next to nothing is near to whatever a mistake makes small: no evidence for it.
    """
    floor = max(min(candidate.floor, rms(candidate.values) / SMALL), TINY)
    as_it_is = residual(candidate, candidate.pipeline.front_end_truth[candidate.stage])
    error = min(candidate.error * candidate.floor / floor, as_it_is)
    return candidate._replace(floor=floor, error=error), as_it_is


def made_of_the_truth(candidate: Candidate) -> Iterator[Named]:
    """Mistakes that no run of the pipeline shows: they are made of the truth itself."""
    truth, error = candidate.truth, candidate.error
    candidate = candidate._replace(view=np.asarray)  # the truth is cut to it already
    if truth.ndim >= 2 and truth.shape[-1] != truth.shape[-2]:
        rows, columns = truth.shape[-2:]
        for variant in (
            truth.swapaxes(-1, -2).reshape(truth.shape),
            truth.reshape(*truth.shape[:-2], columns, rows).swapaxes(-1, -2),
        ):
            yield Named((RESHAPED,), residual(candidate, variant), error)
    if candidate.stage.within == "attn.k" and candidate.values.shape == truth.shape:
        bias = (candidate.values - truth).mean(axis=-2, keepdims=True)
        yield Named((ADDED_BIAS,), residual(candidate, truth + bias), error)
