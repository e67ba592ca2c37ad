"""Encoder mistakes: each run in the whole model, or in one block whose input is right.

# B batch  M mel bins  F frames  T positions  S state
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]  # as in encoder/__main__.py

from melfront.command import PROGRESS

from ..mistakes.entry import EncoderMistake, FrontEndMistake
from ..noise import Array
from ..stages import LN_POST
from .match import (
    AS_IT_IS,
    Candidate,
    Named,
    States,
    batch_of,
    before,
    block_start,
    exists,
    likeness,
    made,
    possible,
    residual,
    right_block,
    right_states,
    tried,
)


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
            start = {"features": batch_of(pipeline, pipeline.heard(features))}
            values = made(candidate, AS_IT_IS, start)
            yield Named((entry,), residual(candidate, values), candidate.error)


def known(candidate: Candidate, entry: EncoderMistake, states: States) -> Array:
    """`made` of the right features, only once if the pipeline keeps its `runs`."""
    pipeline, key = candidate.pipeline, (entry.name, candidate.stage)
    if pipeline.runs and key in pipeline.runs:
        return pipeline.runs[key]
    values = made(candidate, entry, before(states, entry.stage))
    if pipeline.runs is not None:
        pipeline.runs[key] = values
    return values


def variant(candidate: Candidate, entry: EncoderMistake = AS_IT_IS) -> Array:
    """The candidate's stage with a mistake made, float64.

    In one block alone, where what goes into it is known to be right.
    """
    block, pipeline = right_block(candidate), candidate.pipeline
    if block is not None:
        return made(candidate, entry, block_start(candidate, block))
    features = pipeline.heard(pipeline.front_end_truth["features"])
    return known(candidate, entry, {"features": batch_of(pipeline, features)})


def possible_in_block(candidate: Candidate, entry: EncoderMistake, block: int) -> bool:
    """Could this entry, made in this block alone, have spoilt the candidate's stage?"""
    spoils, passed = entry.stage.in_block(block), candidate.passed
    if spoils.part == "stem":
        # GELU and the types of the weights are the blocks' too; what else the stem does is not.
        return bool(entry.weights or set(entry.ops) - {"conv1d"})
    if spoils.order > candidate.stage.order:
        return False
    return passed is None or passed.block != block or spoils.order > passed.order
