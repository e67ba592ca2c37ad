"""Encoder mistakes: each run in the whole model, or in one block whose input is right.

# B batch  M mel bins  F frames  T positions  S state
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]  # as in encoder/__main__.py

from melfront.command import PROGRESS

from ..mistakes.entry import EncoderMistake, FrontEndMistake
from ..mistakes.steps import Steps, input_of
from ..noise import Array
from ..pipeline import Pipeline
from ..stages import LN_POST, Stage
from .match import Candidate, Named, likeness, possible, residual

AS_IT_IS = EncoderMistake("none", Stage("positions"), "nothing is changed")
States = dict[str, Tensor]  # stage to tensor, with the axis of a batch


def try_encoder(candidate: Candidate, catalogue: Sequence[EncoderMistake]) -> Iterator[Named]:
    """Every entry of the catalogue alone: in one block if its input is right, else in all."""
    block = right_block(candidate)
    if block is not None:
        start = block_start(candidate, block)
        for entry in catalogue:
            if possible_in_block(candidate, entry, block):
                yield tried(candidate, entry, made(candidate, entry, start))
        return
    states = right_states(candidate)
    for entry in tqdm(catalogue, desc="mistakes", unit="", **PROGRESS):
        if exists(candidate, entry) and possible(candidate, entry):
            values = known(candidate, entry, states)
            named = tried(candidate, entry, values)
            if "layer_norm" in entry.ops and candidate.stage == LN_POST:
                # The last norm's part in an error may hide the others'.
                last = replace(entry, where=frozenset({LN_POST}))
                rest = values - made(candidate, last, states) + candidate.truth
                alike = max(named.likeness, likeness(candidate, rest))
                named = named._replace(likeness=alike)
            yield named


def through_encoder(candidate: Candidate, catalogue: Sequence[FrontEndMistake]) -> Iterator[Named]:
    """Every front-end entry that this clip shows, seen through the right encoder."""
    pipeline = candidate.pipeline
    truth = pipeline.front_end_truth["features"]
    for entry in tqdm(catalogue, desc="mistakes", unit="", **PROGRESS):
        features = pipeline.front_end(entry.convention(pipeline.convention))["features"]
        if features.shape == truth.shape and not np.array_equal(features, truth):
            values = made(candidate, AS_IT_IS, {"features": batch_of(pipeline, features)})
            yield Named((entry,), residual(candidate, values), candidate.error)


def tried(candidate: Candidate, entry: EncoderMistake, values: Array) -> Named:
    alike = likeness(candidate, values)
    return Named((entry,), residual(candidate, values), candidate.error, alike)


def batch_of(pipeline: Pipeline, values: Array) -> Tensor:
    """float32 with the axis of a batch."""
    tensor = torch.from_numpy(values).float()
    return tensor if pipeline.clips.batched else tensor[None]


def exists(candidate: Candidate, entry: EncoderMistake) -> bool:
    """Has the model the block in which the entry shows first?"""
    return (entry.stage.block or 0) < candidate.pipeline.needed_model().config.n_audio_layer


def made(candidate: Candidate, entry: EncoderMistake, given: Mapping[str, Tensor]) -> Array:
    """The candidate's stage, float64, of the model with a mistake made, from stages given."""
    pipeline = candidate.pipeline
    steps = Steps(entry, pipeline.needed_model(), given, pipeline.n_audio)
    values: Array = steps[candidate.stage].double().numpy()
    return values if pipeline.clips.batched else values[0]


# --- the whole model ------------------------------------------------------------------------------


def right_states(candidate: Candidate) -> States:
    """The features, and what each block gets and gives as far as the candidate's stage: right ones.

    So a mistake in the blocks is computed from where it is made.
    """
    pipeline, stage = candidate.pipeline, candidate.stage
    states = {"features": batch_of(pipeline, pipeline.front_end_truth["features"])}  # (B, M, F)
    steps = Steps(AS_IT_IS, pipeline.needed_model(), states)
    n_layer = pipeline.needed_model().config.n_audio_layer
    for name in (input_of(i) for i in range(n_layer + 1)):
        if name.order < stage.order:
            states[name] = steps[name]
    return states


def before(states: States, stage: Stage) -> States:
    """Those of the states that a mistake first made at this stage leaves right."""
    return {n: x for n, x in states.items() if n == "features" or Stage(n).order < stage.order}


def known(candidate: Candidate, entry: EncoderMistake, states: States) -> Array:
    """`made` of the right features, only once if the pipeline keeps its `runs`."""
    pipeline, key = candidate.pipeline, (entry.name, candidate.stage)
    if pipeline.runs and key in pipeline.runs:
        return pipeline.runs[key]
    values = made(candidate, entry, before(states, entry.stage))
    if pipeline.runs is not None:
        pipeline.runs[key] = values
    return values


# --- one block ------------------------------------------------------------------------------------


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
    return {stage: batch_of(pipeline, pipeline.encoder_truth({stage}, upto=stage)[stage])}


def possible_in_block(candidate: Candidate, entry: EncoderMistake, block: int) -> bool:
    """Could this entry, made in this block alone, have spoilt the candidate's stage?"""
    spoils, passed = entry.stage.in_block(block), candidate.passed
    if spoils.part == "stem":
        # GELU and the types of the weights are the blocks' too; what else the stem does is not.
        return bool(entry.weights or set(entry.ops) - {"conv1d"})
    if spoils.order > candidate.stage.order:
        return False
    return passed is None or passed.block != block or spoils.order > passed.order
