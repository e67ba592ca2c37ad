"""Front-end mistakes: each run as far as the stage in question; if none fits alone, several.

All pairs are tried, on a few frames. To the nearest, one mistake more at a time is added, up to
four, as long as each is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from melfront.conventions import HOP_LENGTH, Convention

from ..mistakes.chunks import found
from ..mistakes.entry import FrontEndMistake
from ..mistakes.misread import misread
from ..noise import NOISY_LIMIT, PASS_LIMIT, Array, least_floor, rms
from ..pipeline import Pipeline
from ..stages import FRONT_END, Stage
from .few_frames import SERVES, FewFrames
from .match import Candidate, Entry, Named, fits, possible, residual

N_WHOLE = 12  # of many entries or pairs tried on a few frames, those that are computed whole
N_MORE = 250  # of all pairs, those that are tried on more frames
N_LENGTHS = 3  # entries for chunks that are tried together with others
N_START = 8  # combinations that a further mistake is added to
MOST_AT_ONCE = 4
HOPEFUL = 0.8  # of the distance without any mistake, from where on further ones are added
NEEDED_OF_ALL = 1.5
NEEDED = 5.0  # a combination comes so many times nearer than without any one of its mistakes

FACTORS = {"gain", "spectrum_scale"}

Tried = tuple[tuple[FrontEndMistake, ...], Convention]


def try_front_end(candidate: Candidate, catalogue: Iterable[FrontEndMistake]) -> list[Named]:
    """Every entry of the catalogue, alone and with others, that may have spoilt the candidate."""
    pipeline, stage, values = candidate.pipeline, candidate.stage, candidate.values
    base = pipeline.convention
    few = few_of(candidate, pipeline) if stage in SERVES else None
    entries = [entry for entry in catalogue if possible(candidate, entry)]
    entries = simplest(entries, base, stage)
    if stage.axes[-1] == "F":
        more = found(values, candidate.truth, candidate.floor)
        entries += [entry for entry in more if possible(candidate, entry)]
    alone: list[Tried] = [((entry,), entry.convention(base)) for entry in entries]
    tried = nearest(candidate, few, alone, candidate.error)
    misreadings = [] if pipeline.clips.batched else list(misread(pipeline.clip_name))
    for entry, clip in misreadings:
        features = replace(pipeline, audio=clip).front_end(upto=stage)
        tried.append(Named((entry,), residual(candidate, features[stage]), candidate.error))
    constant = not values.size or bool((values == values.flat[0]).all())  # near to anything
    if not few or constant or any(fits(candidate, named, noisier=False) for named in tried):
        return tried
    for entry, clip in misreadings:
        tried += on_top(candidate, entry, replace(pipeline, audio=clip), alone)
    of_some_length = [one for one in alone if of_length(one[1])]
    rest = [entry for (entry,), convention in alone if not of_length(convention)]
    rest += [entry for (entry,), _ in nearest_few(few, of_some_length, N_LENGTHS)]
    return tried + at_once(candidate, few, rest, tried)


def simplest(
    entries: Sequence[FrontEndMistake], base: Convention, stage: Stage
) -> list[FrontEndMistake]:
    """Of entries that are the same up to this stage, those that change least.

    Of a front end that is not Whisper's at all, only the first wrong decision is seen there.
    """
    same: dict[tuple[object, ...], list[FrontEndMistake]] = {}
    for entry in entries:
        same.setdefault(entry.convention(base).upto(stage), []).append(entry)
    kept = {entry for alike in same.values() for entry in alike if fewest(entry, alike)}
    return [entry for entry in entries if entry in kept]


def fewest(entry: FrontEndMistake, alike: Iterable[FrontEndMistake]) -> bool:
    return len(entry.change) == min(len(other.change) for other in alike)


def at_once(
    candidate: Candidate, few: FewFrames, entries: list[FrontEndMistake], tried: list[Named]
) -> list[Named]:
    """Two to four of these entries made at once, the nearest first found; every one is needed."""
    base = candidate.pipeline.convention
    screen = few_of(candidate, candidate.pipeline, few=True)
    at_once_: list[tuple[FrontEndMistake, ...]] = list(combinations(entries, 2))
    results: list[Named] = []
    without = min(candidate.error, *(named.residual for named in tried))
    for _ in range(2, MOST_AT_ONCE + 1):
        every = [(made, together(base, made)) for made in at_once_ if compatible(made)]
        more = nearest_few(few, nearest_few(screen, every, N_MORE), N_MORE)
        worth = [made for made in more[:N_WHOLE] if needed(few, base, made)]
        named = nearest(candidate, few, worth, without) if worth else []
        results += named
        if any(fits(candidate, n, noisier=True) for n in named):
            break
        without = min([without, *(n.residual for n in named)])
        start = more[:N_START]
        if not start or few.distance_to(start[0][1]) > HOPEFUL * few.distance_to(base):
            break
        place = {entry: i for i, entry in enumerate(entries)}
        wider = [(*made, entry) for made, _ in start for entry in entries]
        at_once_ = list(dict.fromkeys(tuple(sorted(made, key=place.__getitem__)) for made in wider))
    return results


def nearest_few(few: FewFrames, tried: Sequence[Tried], count: int) -> list[Tried]:
    distances = np.array([few.distance_to(convention) for _, convention in tried])
    order = np.argsort(distances, kind="stable")[:count]
    return [tried[i] for i in order if np.isfinite(distances[i])]


def of_length(convention: Convention) -> bool:
    """Is this an entry of `chunks`, which has one for each likely length?"""
    return bool(convention.chunk or convention.max_chunk)


def needed(few: FewFrames, base: Convention, tried: Tried) -> bool:
    """Does leaving out any one of these mistakes lose most of what they explain together?"""
    made, convention = tried
    whole = few.distance_to(convention)
    # Where all frames count, the distance on a few is only close.
    times = NEEDED if few.least(convention, 1.0) else NEEDED_OF_ALL
    return all(
        few.distance_to(together(base, rest)) >= times * whole
        for rest in combinations(made, len(made) - 1)
    )


def on_top(
    candidate: Candidate, entry: FrontEndMistake, pipeline: Pipeline, alone: Sequence[Tried]
) -> list[Named]:
    """Each entry alone made on a clip that was misread."""
    few = few_of(candidate, pipeline)
    by_itself = few.distance_to(pipeline.convention)
    found = []
    for entries, convention in nearest_few(few, alone, 2):
        if few.distance_to(convention) * NEEDED <= by_itself:
            stage = pipeline.front_end(convention, candidate.stage)[candidate.stage]
            left = residual(candidate, stage)
            found.append(Named((entry, *entries), left, candidate.error))
    return found


def few_of(candidate: Candidate, pipeline: Pipeline, few: bool = False) -> FewFrames:
    which, weights = frames_given(candidate), candidate.weights
    return FewFrames(pipeline, candidate.stage, candidate.values, few, which, weights)


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
    all_frames = [(tried_, left_by(candidate, tried_[1])) for tried_ in tried]
    return [
        Named(entries, left, without)
        for (entries, convention), left in all_frames
        if not (left <= NOISY_LIMIT * PASS_LIMIT[candidate.dtype] and idle(candidate, convention))
    ]


def left_by(candidate: Candidate, convention: Convention) -> float:
    """What is left of the candidate once this convention is assumed, in units of noise."""
    variant = candidate.pipeline.front_end(convention, candidate.stage)[candidate.stage]
    return residual(candidate, cut(candidate, variant, convention))


def idle(candidate: Candidate, convention: Convention) -> bool:
    """Do the chunks of this convention change nothing, as where they meet in silence?"""
    if not of_length(convention):
        return False
    whole = replace(convention, chunk=None, max_chunk=None)
    return left_by(candidate, whole) <= PASS_LIMIT[candidate.dtype]


def cut(candidate: Candidate, variant: Array, convention: Convention) -> Array:
    """The frames that a port keeps which counts them beforehand, of one that pads twice."""
    n_frames = candidate.pipeline.length // convention.hop_length
    if convention.pad_twice and candidate.values.shape[-1:] == (n_frames,):
        return variant[..., :n_frames]
    return variant


def compatible(entries: Iterable[FrontEndMistake]) -> bool:
    """Does each change other decisions? Of factors one is enough: two make any other factor."""
    entries = tuple(entries)
    changed = [name for entry in entries for name, _ in entry.change]
    factors = [entry for entry in entries if {name for name, _ in entry.change} <= FACTORS]
    return len(changed) == len(set(changed)) and len(factors) <= 1


def together(base: Convention, entries: Iterable[FrontEndMistake]) -> Convention:
    """The convention with all of these mistakes."""
    entries = tuple(entries)
    change = {name: value for entry in entries for name, value in entry.change}
    return replace(base, **{**change, "name": " + ".join(entry.name for entry in entries)})


def both(base: Convention, pair: tuple[FrontEndMistake, FrontEndMistake]) -> Convention | None:
    """The convention with both mistakes, or None if they change the same decision."""
    return together(base, pair) if compatible(pair) else None


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
