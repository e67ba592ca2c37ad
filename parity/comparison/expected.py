"""What the tensors are compared with: the truth of each stage, and its unit of noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from ..arithmetic.kinds import AS_STORED, EXACT, FACTORS
from ..files.fit import fit
from ..files.sampling import as_real, at_positions
from ..files.tensors import Dump, Tensor
from ..noise import Array, Floor, foreign_floor, least_floor, widen
from ..pipeline import Pipeline, needs_encoder
from ..stages import ParityError, Stage

View = Callable[[str, Array], Array]


def whole(_stage: str, tensor: Array) -> Array:
    return tensor


class Expected(NamedTuple):
    truth: dict[Stage, Array]  # float64
    floors: dict[Stage, Floor]  # one unit of noise, in the type of the candidate's tensor


def expected(
    pipeline: Pipeline,
    given: Dump[Stage],
    held: Dump[Stage] | None,
    forced: bool,
    view: View = whole,
) -> Expected:
    """The truth and the noise of every stage given: the oracle's, or those of a reference.

    forced: each stage's truth is computed from the stages given before it. view: cuts what was
    given out of a stage, by its name. Raises ParityError.
    """
    tensors = given.tensors
    if forced and held is not None:
        raise ParityError("--forced computes each stage's truth: leave the REFERENCE out")
    if forced and given.sampled:
        raise ParityError("--forced computes a stage from the whole one before it: given a sample")
    if held is not None and pipeline.stored_in not in (None, AS_STORED):
        raise ParityError("--quantised computes the truth anew: leave the REFERENCE out")
    if held is not None and pipeline.computed_in not in (None, EXACT) and pipeline.model is None:
        raise ParityError("--computed-in runs the model to measure the noise: pass --model")
    if held is not None:
        truth = {stage: view(stage, values) for stage, values in truth_of(held).items()}
        floors = floors_of(held, truth) | floors_in_fewer_bits(pipeline, held, truth, tensors, view)
        for stage in tensors:
            if stage not in truth:
                raise ParityError(f"{stage} was given, but the reference lacks it: leave it out")
    elif forced:
        truth = forced_truth(pipeline, tensors)
        # A product of fewer bits is by far the noisiest part of one step.
        far = [
            stage
            for stage in tensors
            if few_bits(pipeline, stage) or not inputs(stage, pipeline.stages) <= set(tensors)
        ]
        floors = port_floors(pipeline, free_truth(pipeline, far), tensors)
    else:
        truth = {s: view(s, x) for s, x in free_truth(pipeline, tensors).items()}
        floors = port_floors(pipeline, truth, tensors, view)
    for stage, tensor in tensors.items():
        floor = floors.get(stage, Floor(0.0, "step"))
        floors[stage] = floor._replace(rms=max(floor.rms, least_floor(truth[stage], tensor.dtype)))
    return Expected(truth, floors)


# --- computed -------------------------------------------------------------------------------------


def free_truth(pipeline: Pipeline, wanted: Iterable[Stage]) -> dict[Stage, Array]:
    """The oracle's tensors of these stages, each computed from the oracle's own."""
    wanted = set(wanted)
    truth = {s: pipeline.front_end_truth[s] for s in wanted if s.of_front_end}
    if needs_encoder(wanted):
        encoder = pipeline.encoder_truth(wanted - set(truth))
        truth |= {stage: encoder[stage] for stage in wanted - set(truth)}
    return truth


def forced_truth(pipeline: Pipeline, tensors: Mapping[Stage, Tensor]) -> dict[Stage, Array]:
    """What the oracle makes of each stage from the candidate's own stages before it."""
    truth: dict[Stage, Array] = {}

    def force(name: str, tensor: Array) -> Array:
        stage = Stage(name)
        if stage not in tensors:
            return tensor
        truth[stage] = tensor
        mine = fit(tensors[stage].values, stage, tensor.shape, np.iscomplexobj(tensor))
        return widen(mine.values) if mine.fits else tensor

    if pipeline.clips.batched:
        raise ParityError("--forced takes one clip; given a batch")
    pipeline.run(force, encoder=needs_encoder(tensors))
    return truth


def inputs(stage: Stage, order: list[Stage]) -> set[Stage]:
    """The stages that make this one a single step: those before it in its part or block, and the
    last one before that."""
    before = order[: order.index(stage)]
    own = [s for s in before if (s.part, s.block) == (stage.part, stage.block)]
    return set(before[-len(own) - 1 :])


def port_floors(
    pipeline: Pipeline,
    truth: Mapping[Stage, Array],
    tensors: Mapping[Stage, Tensor],
    view: View = whole,
) -> dict[Stage, Floor]:
    """The noise of a right port, each stage in its tensor's type: one run for each type."""
    floors: dict[Stage, Floor] = {}
    for dtype in {tensors[stage].dtype for stage in truth}:
        of_type = {stage: t for stage, t in truth.items() if tensors[stage].dtype == dtype}
        noise = pipeline.floors(of_type, dtype, view)
        for stage in noise:
            few = few_bits(pipeline, stage)
            unit = FACTORS[pipeline.computed_in or EXACT] if few else "transformers"
            floors[stage] = Floor(noise[stage], unit)
    return floors


def few_bits(pipeline: Pipeline, stage: Stage) -> bool:
    """Is this stage made by products of fewer bits? The front end is judged in float32."""
    return not stage.of_front_end and pipeline.computed_in not in (None, EXACT)


# --- of a reference -------------------------------------------------------------------------------


def truth_of(held: Dump[Stage]) -> dict[Stage, Array]:
    truth = {stage: widen(tensor.values) for stage, tensor in held.tensors.items()}
    for stage, values in truth.items():
        if stored_as_pairs(held, stage):
            truth[stage] = values[..., 0] + 1j * values[..., 1]
    return truth


def stored_as_pairs(held: Dump[Stage], stage: Stage) -> bool:
    """Does the reference hold this stage, which is complex, as pairs of real numbers?"""
    complex_ = np.iscomplexobj(held.tensors[stage].values)
    return stage == "spectrum" and not complex_ and stage not in held.sampled


def floors_of(held: Dump[Stage], truth: Mapping[Stage, Array]) -> dict[Stage, Floor]:
    """The noise that a reference publishes; of one that does not, that of a foreign program."""
    published = held.floors
    floors: dict[Stage, Floor] = {}
    for stage, values in truth.items():
        if stage not in published:
            floors[stage] = Floor(foreign_floor(values), "foreign")
            continue
        # Published of a real or imaginary part; both together are larger.
        both = math.sqrt(2) if stored_as_pairs(held, stage) else 1.0
        floors[stage] = Floor(both * published[stage], "published")
    return floors


def floors_in_fewer_bits(
    pipeline: Pipeline,
    held: Dump[Stage],
    truth: Mapping[Stage, Array],
    tensors: Mapping[Stage, Tensor],
    part: View = whole,
) -> dict[Stage, Floor]:
    """The noise of a right port in fewer bits: a reference publishes that of float32 alone.

    Empty where the clip or the model is not here to run one.
    """

    def view(stage: str, tensor: Array) -> Array:
        if stage in held.sampled:
            return at_positions(stage, as_real(tensor))
        return part(stage, tensor)

    runs = set(pipeline.stages) if pipeline.audio is not None else set()
    narrow = {
        stage
        for stage, tensor in tensors.items()
        if tensor.dtype in ("float16", "bfloat16") or few_bits(pipeline, stage)
    }
    wanted = {stage: truth[stage] for stage in narrow & runs if stage in truth}
    return port_floors(pipeline, wanted, tensors, view)
