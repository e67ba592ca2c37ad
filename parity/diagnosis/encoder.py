"""Encoder mistakes: each run in the whole model, or in one block whose input is right.

# B batch  M mel bins  F frames  T positions  S state
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped]  # as in encoder/__main__.py

from melfront.command import PROGRESS
from melfront.encoder import EncoderConfig, WhisperEncoder, ops

from ..mistakes.entry import EncoderMistake, FrontEndMistake
from ..mistakes.run import run
from ..noise import Array
from ..pipeline import Stop
from ..stages import LN_POST, Stage
from .match import Candidate, Named, possible, residual

AS_IT_IS = EncoderMistake("none", Stage("positions"), "nothing is changed")


def try_encoder(candidate: Candidate, catalogue: Iterable[EncoderMistake]) -> Iterator[Named]:
    """Every entry of the catalogue alone: in one block if its input is right, else in all."""
    pipeline = candidate.pipeline
    n_layer = pipeline.needed_model().config.n_audio_layer
    block = block_of(candidate.stage, n_layer)
    if block is not None and candidate.passed and candidate.passed.order >= input_of(block).order:
        yield from in_one_block(candidate, block, catalogue)
        return
    mel = torch.from_numpy(pipeline.front_end_truth["features"]).float()
    for entry in progress(catalogue):
        if (entry.stage.block or 0) < n_layer and possible(candidate, entry):
            left = residual(candidate, run_with(candidate, entry, mel))
            yield Named((entry,), left, candidate.error)


def through_encoder(candidate: Candidate, catalogue: Iterable[FrontEndMistake]) -> Iterator[Named]:
    """Every front-end entry, seen through the right encoder."""
    pipeline = candidate.pipeline
    truth = pipeline.front_end_truth["features"]
    for entry in progress(catalogue):
        features = pipeline.front_end(entry.convention(pipeline.convention))["features"]
        if features.shape == truth.shape and not np.array_equal(features, truth):
            mel = torch.from_numpy(features).float()
            left = residual(candidate, run_with(candidate, AS_IT_IS, mel))
            yield Named((entry,), left, candidate.error)


def progress(entries: Iterable[Any]) -> Iterable[Any]:
    """The entries, with a progress bar: each is a run of the whole encoder."""
    return tqdm(list(entries), desc="mistakes", unit="", **PROGRESS)


# --- the whole model ------------------------------------------------------------------------------


def run_with(candidate: Candidate, entry: EncoderMistake, mel: torch.Tensor) -> Array:
    """The candidate's stage of the model with a mistake made; empty where it cannot run.

    mel: (M, F) or (B, M, F) float32. Where the pipeline keeps `runs`, each entry is run once.
    """
    known = candidate.pipeline.runs if entry is not AS_IT_IS else None  # which has other features
    key = (entry.name, candidate.stage)
    if known is not None and key in known:
        return known[key]
    result = computed_with(candidate, entry, mel)
    if known is not None:
        known[key] = result
    return result


def computed_with(candidate: Candidate, entry: EncoderMistake, mel: torch.Tensor) -> Array:
    """`run_with`, computed."""
    model, n_audio = candidate.pipeline.needed_model(), candidate.pipeline.n_audio
    batch = mel if mel.ndim == 3 else mel[None]  # (B, M, F)
    if candidate.stage == LN_POST and not entry.rewrite:  # without a tap only this is computed
        result = run(entry, model, batch, n_audio=n_audio).double().numpy()
        return result if mel.ndim == 3 else result[0]
    seen: dict[str, Array] = {}

    def keep(stage: str, tensor: torch.Tensor) -> torch.Tensor:
        if stage == candidate.stage:
            values = tensor.detach().double().numpy()
            seen[stage] = values if mel.ndim == 3 else values[0]
            raise Stop
        return tensor

    # Given a tap, the model computes scores and weights apart from `attention`, for the tap alone.
    idle: dict[str, Callable[..., object]] = {"scores": lambda q, k: q, "softmax": lambda x: x}
    if candidate.stage.within in ("attn.scores", "attn.weights") or entry.ops:
        idle = {}
    with ops.using(**idle), suppress(Stop):
        run(entry, model, batch, keep, n_audio)
    return seen.get(candidate.stage, np.empty(0))


# --- one block ------------------------------------------------------------------------------------


def block_of(stage: Stage, n_layer: int) -> int | None:
    """The number of the stage's block; the final norm counts with the last one."""
    return n_layer - 1 if stage == LN_POST else stage.block


def input_of(block: int) -> Stage:
    return Stage(f"block.{block - 1}.mlp_residual" if block else "positions")


def alone(config: EncoderConfig, weights: dict[str, torch.Tensor], block: int) -> WhisperEncoder:
    """An encoder whose only block is this one."""
    prefix = f"blocks.{block}."
    kept = {
        name.replace(prefix, "blocks.0."): w
        for name, w in weights.items()
        if name.startswith(prefix) or not name.startswith("blocks.")
    }
    return WhisperEncoder.from_weights(replace(config, n_audio_layer=1), kept)


def in_one_block(
    candidate: Candidate, block: int, catalogue: Iterable[EncoderMistake]
) -> Iterator[Named]:
    """The mistakes of a block, made in one block whose input is the truth's."""
    pipeline = candidate.pipeline
    whole = pipeline.needed_model()
    weights = dict(whole.state_dict())
    model = alone(whole.config, weights, block)
    before = input_of(block)
    start = torch.from_numpy(pipeline.encoder_truth({before}, upto=before)[before]).float()
    start = start if start.ndim == 3 else start[None]  # (B, T, S)
    stage = candidate.stage.in_block(0)
    mel = torch.zeros(len(start), whole.config.n_mels, whole.config.n_frames)
    for entry in catalogue:
        if not possible_in_block(candidate, entry, block):
            continue
        seen: dict[str, Array] = {}

        def tap(name: str, tensor: torch.Tensor, seen: dict[str, Array] = seen) -> torch.Tensor:
            if name == "positions":
                return start
            if name == stage:
                seen[name] = tensor.double().numpy()
            return tensor

        # The tap replaces the block's input, so the rewrites have to see the replaced one.
        if entry.weights:  # which may take another block's
            changed = alone(whole.config, entry.weights(weights), block)
            run(replace(entry, weights=None), changed, mel, tap, pipeline.n_audio)
        else:
            run(entry, model, mel, tap, pipeline.n_audio)
        values = seen.get(stage, np.empty(0))
        values = values if pipeline.clips.batched else values[0]
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
