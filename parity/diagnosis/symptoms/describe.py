"""What can be seen in a wrong tensor where no mistake of the catalogue explains it.

Each finding is a plain sentence with numbers, and is there only on strong evidence: the rule that
it states leaves a thirtieth of the error at the most, or holds exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ...noise import PASS_LIMIT, Array
from ...stages import Stage
from ..match import Candidate
from .certain import unrelated
from .floors import other_floor
from .function import function_of_the_truth
from .late import quiet_places, samples_late
from .linear import linear
from .moved import moved
from .places import bad_indices, place_line, places
from .values import bounded, left_out, not_finite, unwritten
from .view import UNRELATED, View, view_of

MOST_VALUES = 2**24  # of a tensor for which every rule is tried: a large model's scores have more
NOTHING_IN_COMMON = (
    "the values have nothing in common with the truth: they are made with other or random weights, "
    "or a mistake before this stage spoils all of them"
)


class Symptoms(NamedTuple):
    """Plain sentences. `exact` is the one that explains all of the error, to within noise."""

    seen: tuple[str, ...] = ()
    exact: str = ""


@np.errstate(all="ignore")  # of numbers of any size
def symptoms(candidate: Candidate) -> Symptoms:
    """What can be seen in the candidate. Nothing, if its shape is another."""
    v = of_candidate(candidate)
    if v is None:
        return Symptoms()
    if not np.isfinite(v.mine).all() or not np.isfinite(v.truth).all():
        return Symptoms(tuple(not_finite(v)))
    stage, pipeline = candidate.stage, candidate.pipeline
    if v.mine.size > MOST_VALUES:
        return Symptoms(tuple(place_line(v, *place) for place in places(v)))
    if text := left_out(stage, v):
        return Symptoms((text,))
    rule = linear(stage, v)
    if rule and rule.exact:
        return Symptoms(exact=rule.text)
    elsewhere = tuple(text for axis in v.axes() if (text := moved(v, axis)))
    if elsewhere:
        return Symptoms(elsewhere[1:], elsewhere[0])
    there = dict(in_places(stage, v))
    if any(there.values()):  # the places, and what stands there
        first, *more = (f"{line}; {what}" if what else line for line, what in there.items())
        return Symptoms(tuple(more), first)
    if floor := other_floor(pipeline, stage, v):
        found, variant = floor
        if found.exact:
            return Symptoms(exact=found.text)
        rest = v._replace(truth=variant)
        return Symptoms((found.text, *(place_line(rest, *place) for place in places(rest))))
    if text := bounded(v):
        return Symptoms(exact=text)
    own = linear(stage, v, vectors(candidate))
    if own and own.exact:
        return Symptoms(exact=own.text)
    seen = [*there, *([rule.text] if rule else ())]
    if not rule:
        late = samples_late(pipeline, stage, v)
        other = function_of_the_truth(v) or quiet_places(stage, v)
        seen += [text for text in (late, other) if text]
    if not seen and not stage.of_front_end and unrelated(candidate, UNRELATED):
        seen = [NOTHING_IN_COMMON]
    return Symptoms(tuple(seen))


def of_candidate(candidate: Candidate) -> View | None:
    if candidate.values.shape != candidate.truth.shape or not candidate.values.size:
        return None
    model = candidate.pipeline.model
    heads = model.config.n_audio_head if model is not None else 0
    limit = PASS_LIMIT[candidate.dtype]
    return view_of(
        candidate.stage, candidate.values, candidate.truth, candidate.floor, limit, heads
    )


def in_places(stage: Stage, v: View) -> Iterator[tuple[str, str]]:
    """Which indices of each axis are bad, and what stands there, if that can be said."""
    for axis, bad in places(v):
        there = unwritten(v, axis, bad)
        if not there and (rule := linear(stage, v.part(axis, bad))):
            there = f"there {rule.text}"
        yield place_line(v, axis, bad), there


def places_of(candidate: Candidate) -> tuple[str, ...]:
    """Which frames or positions of the candidate are bad."""
    v, time = of_candidate(candidate), ("frame", "position")
    if v is None or not np.isfinite(v.mine).all() or not np.isfinite(v.truth).all():
        return ()
    found = ((axis, bad_indices(v, axis)) for axis in v.axes() if v.names[axis] in time)
    return tuple(place_line(v, axis, bad) for axis, bad in found if bad is not None)


def vectors(candidate: Candidate) -> dict[str, Array]:
    """The model's biases and scales, by name."""
    model = candidate.pipeline.model
    if model is None or candidate.stage.of_front_end:
        return {}
    weights = model.state_dict().items()
    return {name: w.double().numpy() for name, w in weights if w.ndim == 1}
