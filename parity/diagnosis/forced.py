"""Mistakes in a stage whose truth was computed from the port's own stages: `--forced`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from melfront import variants
from melfront.conventions import Convention

from ..mistakes.entry import EncoderMistake, FrontEndMistake
from ..noise import Array, widen
from ..pipeline import Stop
from .match import Candidate, Entry, Named, batch_of, exists, made, possible, residual, tried


def try_forced(candidate: Candidate, catalogue: Sequence[Entry]) -> Iterator[Named]:
    """Every entry, made from the same stages of the port that the truth was computed from."""
    pipeline, given = candidate.pipeline, candidate.given or {}
    if candidate.stage.of_front_end:
        for entry in catalogue:
            if isinstance(entry, FrontEndMistake) and possible(candidate, entry):
                values = front_end(candidate, entry.convention(pipeline.convention))
                yield Named((entry,), residual(candidate, values), candidate.error)
        return
    features = given.get("features", pipeline.front_end_truth["features"])  # type: ignore[call-overload]  # a Stage is a str
    start = {"features": batch_of(pipeline, pipeline.heard(features))}
    start |= {s: batch_of(pipeline, x) for s, x in given.items() if not s.of_front_end}
    for entry in catalogue:
        if isinstance(entry, EncoderMistake) and exists(candidate, entry):
            yield tried(candidate, entry, made(candidate, entry, start))


def front_end(candidate: Candidate, convention: Convention) -> Array:
    """The candidate's stage under a convention, from the port's own stages before it."""
    pipeline, given = candidate.pipeline, candidate.given or {}
    seen: list[Array] = []

    def put(name: Any, tensor: Array) -> Array:
        if name == candidate.stage:
            seen.append(tensor)
            raise Stop
        return widen(given[name]) if name in given else tensor

    with suppress(Stop):
        variants.run(pipeline.clips, pipeline.length, pipeline.n_mels, convention, put)
    return seen[0]
