"""Does a mistake explain the candidate: is what is left, once it is assumed, noise?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from melfront.encoder import ops

from ..arithmetic.kinds import EXACT
from ..arithmetic.products import products
from ..files.fit import fit
from ..mistakes.entry import EncoderMistake, FrontEndMistake
from ..mistakes.steps import Steps, input_of
from ..noise import NOISY_LIMIT, PASS_LIMIT, Array, rms, widen
from ..pipeline import Pipeline
from ..stages import LN_POST, Stage

Entry = FrontEndMistake | EncoderMistake
NEARER = 30.0  # times nearer than the truth, for a candidate noisier than ours
TINY = 2.0**-126  # the smallest normal float32
SMALL = 100_000  # numbers in a hidden state: of a model with fewer, a run costs next to nothing
AS_IT_IS = EncoderMistake("none", Stage("positions"), "nothing is changed")
States = dict[str, Tensor]  # stage to tensor, with the axis of a batch


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
    # Stages before it that its truth was computed from, in our layout: the port's own, if forced.
    given: Mapping[Stage, Array] | None = None
    view: Callable[[Array], Array] = np.asarray  # cuts out of the stage what was given of it
    weights: Array | None = None  # of the errors, where the clip had to be resampled


class Named(NamedTuple):
    """A mistake, or two made at once, that gives the candidate's numbers."""

    entries: tuple[Entry, ...]
    residual: float  # what is left, in units of noise, once it is assumed
    without: float  # what is left without it - for two at once, with the better one alone
    likeness: float = 0.0  # cosine between the candidate's error and the one that it makes

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
    untried: str = ""  # what was not tried, because it would take too long


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
    values, variant = candidate.values, cut(candidate, variant)
    if values.shape != variant.shape:
        fitted = fit(values, candidate.stage, variant.shape, np.iscomplexobj(variant))
        if not fitted.fits:
            return float("inf")
        values = fitted.values
    with np.errstate(invalid="ignore"):
        distance = widen(values) - variant
    distance[values == variant] = 0  # infinities too: a mask's
    distance = distance if candidate.weights is None else distance * candidate.weights
    larger = rms(variant) / max(rms(candidate.truth), TINY)
    unit = candidate.floor * (max(1.0, larger) if np.isfinite(larger) else 1.0)
    noise = rms(distance) / unit
    return noise if np.isfinite(noise) else float("inf")


def cut(candidate: Candidate, variant: Array) -> Array:
    """What was given of the stage, out of all of it."""
    return variant if variant.shape == candidate.truth.shape else candidate.view(variant)


def likeness(candidate: Candidate, variant: Array) -> float:
    """Cosine between the candidate's error and the variant's; 0 for another shape or infinities."""
    if not candidate.values.shape == candidate.truth.shape == variant.shape:
        return 0.0
    with np.errstate(invalid="ignore"):
        mine, theirs = widen(candidate.values) - candidate.truth, variant - candidate.truth
    sizes = rms(mine) * rms(theirs) * mine.size
    cosine = float(np.vdot(theirs, mine).real) / sizes if sizes else 0.0
    return cosine if np.isfinite(cosine) else 0.0


def possible(candidate: Candidate, entry: Entry) -> bool:
    """Could this entry have spoilt this stage, given the last stage that passed?"""
    if entry.stage.order > candidate.stage.order:
        return False
    return candidate.passed is None or entry.stage.order > candidate.passed.order


# --- an encoder with a mistake made ---------------------------------------------------------------


def tried(candidate: Candidate, entry: EncoderMistake, values: Array) -> Named:
    alike = likeness(candidate, values)
    return Named((entry,), residual(candidate, values), candidate.error, alike)


def batch_of(pipeline: Pipeline, values: Array) -> Tensor:
    """float32 with the axis of a batch."""
    tensor = torch.from_numpy(np.ascontiguousarray(values)).float()
    return tensor if pipeline.clips.batched else tensor[None]


def exists(candidate: Candidate, entry: EncoderMistake) -> bool:
    """Has the model the block in which the entry shows first?"""
    return (entry.stage.block or 0) < candidate.pipeline.needed_model().config.n_audio_layer


def takes_long(candidate: Candidate) -> bool:
    config = candidate.pipeline.needed_model().config
    return config.n_audio_ctx * config.n_audio_state > SMALL


def steps_of(pipeline: Pipeline, entry: EncoderMistake, given: Mapping[str, Tensor]) -> Steps:
    """The pipeline's model, in its arithmetic, with a mistake made."""
    with ops.using(**products(pipeline.computed_in or EXACT)):
        return Steps(entry, pipeline.needed_model(), given, pipeline.n_audio)


def made(candidate: Candidate, entry: EncoderMistake, given: Mapping[str, Tensor]) -> Array:
    """The candidate's stage, float64, of the model with a mistake made, from stages given.

    As much of it as the candidate has.
    """
    pipeline = candidate.pipeline
    steps = steps_of(pipeline, entry, given)
    values: Array = steps[candidate.stage].double().numpy()
    return cut(candidate, values if pipeline.clips.batched else values[0])


def right_states(candidate: Candidate) -> States:
    """The features, and what each block gets and gives as far as the candidate's stage: right ones.

    So a mistake in the blocks is computed from where it is made.
    """
    pipeline, stage = candidate.pipeline, candidate.stage
    features = pipeline.heard(pipeline.front_end_truth["features"])
    states = {"features": batch_of(pipeline, features)}  # (B, M, F)
    steps = steps_of(pipeline, AS_IT_IS, states)
    n_layer = pipeline.needed_model().config.n_audio_layer
    for name in (input_of(i) for i in range(n_layer + 1)):
        if name.order < stage.order:
            states[name] = steps[name]
    return states


def before(states: States, stage: Stage) -> States:
    """Those of the states that a mistake first made at this stage leaves right."""
    return {n: x for n, x in states.items() if n == "features" or Stage(n).order < stage.order}


def right_block(candidate: Candidate) -> int | None:
    """The block that the candidate's stage is in, if its input passed. The final norm is of the
    last one."""
    n_layer = candidate.pipeline.needed_model().config.n_audio_layer
    block = n_layer - 1 if candidate.stage == LN_POST else candidate.stage.block
    passed = candidate.passed
    if block is None or passed is None or passed.order < input_of(block).order:
        return None
    return block


def block_start(candidate: Candidate, block: int) -> States:
    """The truth's input of a block."""
    pipeline, stage = candidate.pipeline, input_of(block)
    return {stage: batch_of(pipeline, pipeline.encoder_input(stage))}
