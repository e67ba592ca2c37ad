"""Front-end mistakes: each run as far as the stage in question; if none fits alone, two at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from melfront.conventions import HOP_LENGTH, Convention

from ..mistakes.entry import FrontEndMistake
from ..mistakes.misread import misread
from ..noise import NOISY_LIMIT, PASS_LIMIT, Array, least_floor, rms
from ..stages import FRONT_END, Stage
from .few_frames import SERVES, FewFrames
from .match import Candidate, Entry, Named, fits, possible, residual

N_WHOLE = 12  # of many entries or pairs tried on a few frames, those that are computed whole

Tried = tuple[tuple[FrontEndMistake, ...], Convention]


def try_front_end(candidate: Candidate, catalogue: Iterable[FrontEndMistake]) -> list[Named]:
    """Every entry of the catalogue, alone and in pairs, that may have spoilt the candidate."""
    pipeline, stage = candidate.pipeline, candidate.stage
    base = pipeline.convention
    few = None
    if stage in SERVES and not pipeline.put:
        given = frames_given(candidate)
        few = FewFrames(pipeline, stage, candidate.values, given, candidate.weights)
    entries = [entry for entry in catalogue if possible(candidate, entry)]
    alone: list[Tried] = [((entry,), entry.convention(base)) for entry in entries]
    tried = nearest(candidate, few, alone, candidate.error)
    if not pipeline.clips.batched:
        for entry, clip in misread(pipeline.clip_name):
            features = replace(pipeline, audio=clip).front_end(upto=stage)
            tried.append(Named((entry,), residual(candidate, features[stage]), candidate.error))
    if few and not any(fits(candidate, named, noisier=False) for named in tried):
        pairs = [(pair, both(base, pair)) for pair in combinations(entries, 2)]
        without = min(candidate.error, *(named.residual for named in tried))
        tried += nearest(candidate, few, [(pair, c) for pair, c in pairs if c], without)
    return tried


def frames_given(candidate: Candidate) -> Array | None:
    """The numbers of the frames that the candidate is of; None for all of them."""
    n_frames = candidate.pipeline.length // HOP_LENGTH
    axis = candidate.stage.time_axis or 0
    every = np.arange(n_frames).reshape(-1, 1) if axis == 0 else np.arange(n_frames)[None]
    given = candidate.view(every).ravel()
    return None if len(given) == n_frames else given


def nearest(
    candidate: Candidate, few: FewFrames | None, tried: Sequence[Tried], without: float
) -> list[Named]:
    """These conventions on all frames; with a few frames to ask, only those that may fit."""
    if few:
        distances = [few.distance_to(convention) for _, convention in tried]
        ranked = np.argsort(distances, kind="stable")[:N_WHOLE]
        far = NOISY_LIMIT * PASS_LIMIT[candidate.dtype] * candidate.floor  # nothing beyond it fits
        kept = [i for i in ranked if few.least(tried[i][1], distances[i]) <= far]
        tried = [tried[i] for i in kept or ranked[:1]]
    run, stage = candidate.pipeline.front_end, candidate.stage
    return [
        Named(entries, residual(candidate, run(convention, stage)[stage]), without)
        for entries, convention in tried
    ]


def both(base: Convention, pair: tuple[FrontEndMistake, FrontEndMistake]) -> Convention | None:
    """The convention with both mistakes, or None if they change the same decision."""
    first, second = (dict(entry.change) for entry in pair)
    if set(first) & set(second):
        return None
    return replace(base, name=f"{pair[0].name} + {pair[1].name}", **first, **second)


def telling_stage(candidate: Candidate, entries: Iterable[Entry]) -> Stage | None:
    """The first front-end stage at which entries that fit alike differ; None if none is known."""
    pipeline, traces = candidate.pipeline, []
    for entry in entries:
        if not isinstance(entry, FrontEndMistake):
            return None
        traces.append(pipeline.front_end(entry.convention(pipeline.convention)))
    for stage in FRONT_END:
        first, *others = (trace[stage] for trace in traces)
        for other in others:
            if not (other.shape == first.shape and rms(other - first) <= 2 * least_floor(first)):
                return stage
    return None
