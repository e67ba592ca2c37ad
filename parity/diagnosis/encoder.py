"""Encoder mistakes: each run in the whole model, or in one block whose input is right.

# B batch  M mel bins  F frames  T positions  S state
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]  # as in encoder/__main__.py

from melfront.command import PROGRESS

from ..mistakes.entry import EncoderMistake, FrontEndMistake
from ..noise import Array, rms
from ..stages import LN_POST
from .match import (
    AS_IT_IS,
    TINY,
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
    takes_long,
    tried,
)

LIKELIEST = 24  # front-end entries: each is a run of the whole encoder


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
    """The front-end entries that this clip shows, seen through the right encoder.

    Of a model that takes long, the LIKELIEST: those that change the features by as much as the
    candidate is off.
    """
    pipeline = candidate.pipeline
    truth = pipeline.front_end_truth["features"]
    off = candidate.error * candidate.floor / max(rms(candidate.truth), TINY)
    shown: list[tuple[float, FrontEndMistake]] = []
    for entry in catalogue:
        features = pipeline.front_end(entry.convention(pipeline.convention))["features"]
        if features.shape == truth.shape and not np.array_equal(features, truth):
            ratio = rms(features - truth) / rms(truth) / off
            shown.append((abs(math.log(max(ratio, TINY))), entry))
    if takes_long(candidate):
        shown = sorted(shown, key=lambda pair: pair[0])[:LIKELIEST]
    for _, entry in tqdm(shown, desc="mistakes", unit="", **PROGRESS):
        features = pipeline.front_end(entry.convention(pipeline.convention))["features"]
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
