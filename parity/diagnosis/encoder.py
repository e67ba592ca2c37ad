"""Encoder mistakes: each run in the whole model, or in one block whose input is right.

# B batch  M mel bins  F frames  T positions  S state
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]  # as in encoder/__main__.py

from melfront.command import PROGRESS
from melfront.encoder import EncoderConfig, WhisperEncoder, ops

from ..arithmetic.kinds import EXACT
from ..arithmetic.products import products
from ..mistakes.entry import EncoderMistake, FrontEndMistake, run
from ..noise import Array
from ..pipeline import Pipeline, Seen, Stop
from ..stages import LN_POST, Stage
from .match import Candidate, Named, possible, residual

AS_IT_IS = EncoderMistake("none", Stage("positions"), "nothing is changed")


def try_encoder(candidate: Candidate, catalogue: Sequence[EncoderMistake]) -> Iterator[Named]:
    """Every entry of the catalogue alone: in one block if its input is right, else in all."""
    n_layer = candidate.pipeline.needed_model().config.n_audio_layer
    block = block_of(candidate)
    if block is not None:
        yield from in_one_block(candidate, block, catalogue)
        return
    for entry in tqdm(catalogue, desc="mistakes", unit="", **PROGRESS):
        if (entry.stage.block or 0) < n_layer and possible(candidate, entry):
            yield Named((entry,), residual(candidate, known(candidate, entry)), candidate.error)


def through_encoder(candidate: Candidate, catalogue: Sequence[FrontEndMistake]) -> Iterator[Named]:
    """Every front-end entry, seen through the right encoder."""
    pipeline = candidate.pipeline
    truth = pipeline.front_end_truth["features"]
    for entry in tqdm(catalogue, desc="mistakes", unit="", **PROGRESS):
        features = pipeline.front_end(entry.convention(pipeline.convention))["features"]
        if features.shape == truth.shape and not np.array_equal(features, truth):
            values = made(candidate, AS_IT_IS, batch_of(pipeline, features))
            yield Named((entry,), residual(candidate, values), candidate.error)


def batch_of(pipeline: Pipeline, values: Array) -> Tensor:
    """float32 with the axis of a batch."""
    tensor = torch.from_numpy(values).float()
    return tensor if pipeline.clips.batched else tensor[None]


# --- the whole model ------------------------------------------------------------------------------


def known(candidate: Candidate, entry: EncoderMistake) -> Array:
    """`made` of the right features, only once if the pipeline keeps its `runs`."""
    pipeline, key = candidate.pipeline, (entry.name, candidate.stage)
    if pipeline.runs and key in pipeline.runs:
        return pipeline.runs[key]
    mel = batch_of(pipeline, pipeline.front_end_truth["features"])  # (B, M, F)
    values = made(candidate, entry, mel)
    if pipeline.runs is not None:
        pipeline.runs[key] = values
    return values


def made(
    candidate: Candidate,
    entry: EncoderMistake,
    mel: Tensor,
    block: WhisperEncoder | None = None,
    start: Tensor | None = None,
) -> Array:
    """The candidate's stage, float64, of the model with a mistake made. mel: (B, M, F).

    block: an encoder of one block that stands for the model; start: that block's input (B, T, S).
    """
    pipeline, stage, model = candidate.pipeline, candidate.stage, candidate.pipeline.needed_model()
    if block is not None:
        model, stage = block, stage.in_block(0)
    seen: Any = Seen({stage}, upto=stage)

    def tap(name: str, tensor: Tensor) -> Any:
        return seen(name, start if start is not None and name == "positions" else tensor)

    rounding = products(pipeline.computed_in or EXACT)
    # Given a tap, the model computes scores and weights apart from `attention`, for the tap alone.
    idle: dict[str, Callable[..., object]] = {"scores": lambda q, k: q, "softmax": lambda x: x}
    if stage.within in ("attn.scores", "attn.weights") or entry.ops:
        idle = {}
    if stage == LN_POST and start is None and not entry.rewrite:  # without a tap, less is computed
        with ops.using(**rounding):
            seen[stage] = run(entry, model, mel, n_audio=pipeline.n_audio)
    else:
        with ops.using(**(rounding | idle)), suppress(Stop):
            run(entry, model, mel, tap, pipeline.n_audio)
    values: Array = seen[stage].double().numpy()
    return values if pipeline.clips.batched else values[0]


def variant(candidate: Candidate, entry: EncoderMistake = AS_IT_IS) -> Array:
    """The candidate's stage with a mistake made, float64.

    In one block alone, where what goes into it is known to be right.
    """
    block = block_of(candidate)
    if block is None:
        return known(candidate, entry)
    mel, start = inputs_of(candidate, block)
    model = candidate.pipeline.needed_model()
    weights = dict(model.state_dict())
    changed = entry.weights(weights) if entry.weights else weights  # which may take another block's
    one = alone(model.config, changed, block)
    return made(candidate, replace(entry, weights=None), mel, one, start)


# --- one block ------------------------------------------------------------------------------------


def input_of(block: int) -> Stage:
    return Stage(f"block.{block - 1}.mlp_residual" if block else "positions")


def block_of(candidate: Candidate) -> int | None:
    """The block that the candidate's stage is of, where the input of that block passed."""
    stage, passed = candidate.stage, candidate.passed
    n_layer = candidate.pipeline.needed_model().config.n_audio_layer
    block = n_layer - 1 if stage == LN_POST else stage.block  # the final norm is of the last one
    given = block is not None and passed and passed.order >= input_of(block).order
    return block if given else None


def inputs_of(candidate: Candidate, block: int) -> tuple[Tensor, Tensor]:
    """What a model of this block alone is run on: features, which go nowhere, and its input."""
    pipeline = candidate.pipeline
    start = batch_of(pipeline, pipeline.encoder_input(input_of(block)))  # (B, T, S)
    config = pipeline.needed_model().config
    return torch.zeros(len(start), config.n_mels, config.n_frames), start


def alone(config: EncoderConfig, weights: dict[str, Tensor], block: int) -> WhisperEncoder:
    """An encoder whose only block is this one."""
    prefix = f"blocks.{block}."
    kept = {
        name.replace(prefix, "blocks.0."): w
        for name, w in weights.items()
        if name.startswith(prefix) or not name.startswith("blocks.")
    }
    return WhisperEncoder.from_weights(replace(config, n_audio_layer=1), kept)


def in_one_block(
    candidate: Candidate, block: int, catalogue: Sequence[EncoderMistake]
) -> Iterator[Named]:
    """The mistakes of a block, made in one block whose input is the truth's."""
    for entry in catalogue:
        if possible_in_block(candidate, entry, block):
            values = variant(candidate, entry)
            yield Named((entry,), residual(candidate, values), candidate.error)


def possible_in_block(candidate: Candidate, entry: EncoderMistake, block: int) -> bool:
    """Could this entry, made in this block alone, have spoilt the candidate's stage?"""
    spoils, passed = entry.stage.in_block(block), candidate.passed
    if spoils.part == "stem":
        # GELU and the types of the weights are the blocks' too; what else the stem does is not.
        return bool(entry.weights or set(entry.ops) - {"conv1d"})
    if spoils.order > candidate.stage.order:
        return False
    return passed is None or passed.block != block or spoils.order > passed.order
