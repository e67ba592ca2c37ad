"""Which known mistakes a comparison that passed could not have shown, and which signal would.

On a clip that begins and ends in silence, zero padding and reflection give the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from ...diagnosis.few_frames import SERVES, FewFrames
from ...mistakes import FRONT_END, FrontEndMistake
from ...noise import PASS_LIMIT, rms
from ...pipeline import Pipeline
from ...resolve import of_signal
from ...signals import SHORT
from ...stages import Stage
from .report import Blind


def blind(pipeline: Pipeline, passed: Mapping[Stage, tuple[str, float]]) -> Blind | None:
    """passed: front-end stages that passed, each with its dtype and its unit of noise.

    None where nothing of the front end was compared.
    """
    stages = [stage for stage in passed if stage.of_front_end]
    if not stages or pipeline.audio is None:
        return None
    base = pipeline.convention
    entries = [e for e in FRONT_END if changes(e, pipeline) and e.stage.order <= stages[-1].order]
    bounds = {s: PASS_LIMIT[dtype] * floor for s, (dtype, floor) in passed.items() if s in stages}
    few = {s: FewFrames(pipeline, s, pipeline.front_end_truth[s]) for s in stages if s in SERVES}
    unseen = []
    for entry in entries:
        c = entry.convention(base)
        if any(f.least(c, f.distance_to(c)) > bounds[s] for s, f in few.items()):
            continue
        if passes(pipeline, entry, bounds):
            unseen.append(entry)
    names = [entry.name for entry in unseen]
    return Blind(names, len(entries), shown_by(unseen, stages[-1], pipeline) if unseen else {})


def changes(entry: FrontEndMistake, pipeline: Pipeline) -> bool:
    """Does this entry change what the pipeline's convention says?"""
    return any(getattr(pipeline.convention, name) != value for name, value in entry.change)


def passes(pipeline: Pipeline, entry: FrontEndMistake, bounds: Mapping[Stage, float]) -> bool:
    """Is every one of these stages right to within its bound, with the mistake made?"""
    last = max(bounds, key=lambda stage: stage.order)
    truth = pipeline.front_end_truth
    variant = pipeline.front_end(entry.convention(pipeline.convention), last)
    return all(
        variant[stage].shape == truth[stage].shape and rms(variant[stage] - truth[stage]) <= bound
        for stage, bound in bounds.items()
    )


def shown_by(
    entries: Iterable[FrontEndMistake], stage: Stage, pipeline: Pipeline
) -> dict[str, list[str]]:
    """The fewest of the committed signals that show these entries at a stage, greedily."""
    left = {entry.name: entry for entry in entries}
    chosen: dict[str, list[str]] = {}
    sees = {
        signal: [n for n, entry in left.items() if shows(signal, entry, stage, pipeline.n_mels)]
        for signal in SHORT
    }
    while left:
        signal = max(sees, key=lambda signal: len(left.keys() & set(sees[signal])))
        names = [name for name in sees[signal] if name in left]
        if not names:  # what is left shows on none of them
            break
        chosen[signal] = names
        for name in names:
            del left[name]
    return chosen


def shows(signal: str, entry: FrontEndMistake, stage: Stage, n_mels: int) -> bool:
    pipeline = signal_pipeline(signal, n_mels)
    floor = pipeline.floors({stage: pipeline.front_end_truth[stage]}, "float32")[stage]
    return not passes(pipeline, entry, {stage: PASS_LIMIT["float32"] * floor})


@lru_cache(maxsize=2 * len(SHORT))
def signal_pipeline(signal: str, n_mels: int) -> Pipeline:
    return of_signal(signal, n_mels)
