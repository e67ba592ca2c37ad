"""Run an encoder with a mistake made: each stage is one step, computed when it is asked for.

The steps are those of `encoder.model`, by the same ops, so that a stage can be computed from given
ones before it, and a mistake can be made at some of the stages only.

    # B batch  M mel bins  F frames  T positions  S state  H heads  D head_dim
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from melfront.encoder import WhisperEncoder, ops, parts
from melfront.encoder.model import Tap, no_tap

from ..stages import BLOCK, LN_POST, STEM, Stage, of_encoder
from .wrong_ops import Weights


class Steps:
    """The stages of an encoder with a mistake made: `steps["block.0.attn.q"]`, (B, ...) each.

    entry: an `EncoderMistake`.
    given: tensors by stage that are used as they are; "features" (B, M, F), or whatever else the
    stages asked for are computed from. What is inside a block is forgotten once its output is
    there.
    n_audio: how many positions hold audio, for the mistakes that treat the others differently.
    What the mistake leaves alone is computed by the ops in use where this is made.
    """

    def __init__(
        self,
        entry: Any,
        model: WhisperEncoder,
        given: Mapping[str, Tensor],
        n_audio: int = 0,
    ) -> None:
        self.entry, self.given, self.done = entry, given, dict(given)
        self.model, self.right = model, vars(ops.current())
        if entry.weights:
            weights = changed_weights(entry, model)
            self.model = WhisperEncoder.from_weights(model.config, weights)
        self.ops: dict[str, Any] = dict(entry.ops)
        if entry.needs_clip:
            self.ops = {slot: partial(function, n_audio) for slot, function in self.ops.items()}
        if {"scores", "softmax"} & self.ops.keys():  # slots that our `attention` does not call
            self.ops.setdefault("attention", ops.explicit_attention)

    def __getitem__(self, stage: str) -> Tensor:
        if stage not in self.done:
            self.compute(Stage(stage))
        return self.done[stage]

    def compute(self, stage: Stage) -> None:
        made = self.entry.is_made_at(stage)
        # All slots, because the stages that this one needs may be computed within.
        with torch.no_grad(), ops.using(**{**self.right, **(self.ops if made else {})}):
            x = self.step(stage)
            if made and stage.within in self.entry.rewrite:
                x = self.entry.rewrite[stage.within](At(self, stage.block), x)
        self.done[stage] = x
        if stage.within == "mlp_residual":
            for inner in BLOCK[:-1]:
                name = inner.in_block(stage.block or 0)
                if name not in self.given:
                    self.done.pop(name, None)

    def input_of(self, block: int) -> Tensor:
        """What a block gets (B, T, S). The blocks before it are computed in order, so that no stage
        waits for all of them: Python's stack is short.
        """
        first = block
        while first and input_of(first) not in self.done:
            first -= 1
        for i in range(first, block):
            self[input_of(i)]
        return self[input_of(block)]

    def step(self, stage: Stage) -> Tensor:
        op, model = ops.current(), self.model
        if stage == LN_POST:
            last = len(model.blocks) - 1
            return parts.layer_norm(self[f"block.{last}.mlp_residual"], model.ln_post)
        if stage.part == "block":
            return self.step_of_block(stage, At(self, stage.block))
        match str(stage):
            case "conv1":
                return parts.conv1d(self["features"], model.conv1)  # (B, S, F)
            case "gelu1":
                return op.gelu(self["conv1"])
            case "conv2":
                return parts.conv1d(self["gelu1"], model.conv2)  # (B, S, T)
            case "gelu2":
                return op.gelu(self["conv2"])
            case "positions":
                x = self["gelu2"].transpose(1, 2)  # (B, T, S)
                return x + model.positions[: x.shape[1]]
        raise KeyError(stage)  # of the front end

    def step_of_block(self, stage: Stage, at: At) -> Tensor:
        op, block = ops.current(), at.block
        split = block.attn.split
        match stage.within:
            case "attn_ln":
                return parts.layer_norm(at.block_input, block.attn_ln)
            case "attn.q" | "attn.k" | "attn.v":
                return self.qkv(stage, at)
            case "attn.scores":
                return op.scores(split(at["attn.q"]), split(at["attn.k"]))  # (B, H, T, T)
            case "attn.weights":
                return op.softmax(at["attn.scores"])
            case "attn.context":
                return self.context(stage, at)
            case "attn.out":
                return parts.linear(at["attn.context"], block.attn.out)
            case "attn_residual":
                return at.block_input + at["attn.out"]
            case "mlp_ln":
                return parts.layer_norm(at["attn_residual"], block.mlp_ln)
            case "mlp.fc1":
                return parts.linear(at["mlp_ln"], block.mlp.fc1)
            case "mlp.gelu":
                return op.gelu(at["mlp.fc1"])
            case "mlp.fc2":
                return parts.linear(at["mlp.gelu"], block.mlp.fc2)
        return at["attn_residual"] + at["mlp.fc2"]

    def qkv(self, stage: Stage, at: At) -> Tensor:
        attn = at.block.attn
        if "qkv" in self.ops and self.entry.is_made_at(stage):
            every = parts.qkv(at["attn_ln"], attn.q, attn.k, attn.v)  # (B, T, S) each
            return every["qkv".index(stage[-1])]
        return parts.linear(at["attn_ln"], getattr(attn, stage[-1]))

    def context(self, stage: Stage, at: At) -> Tensor:
        split, weights = at.block.attn.split, f"block.{stage.block}.attn.weights"
        v = split(at["attn.v"])  # (B, H, T, D)
        attends = "attention" in self.entry.ops and self.entry.is_made_at(stage)
        if weights in self.given and not attends:
            x = self.given[weights] @ v
        else:
            x = ops.current().attention(split(at["attn.q"]), split(at["attn.k"]), v)
        return x.transpose(1, 2).flatten(2)  # (B, T, S)


@dataclass(frozen=True)
class At:
    """Where a rewrite stands: a block of an encoder, or its stem or end."""

    steps: Steps
    number: int | None  # of the block

    def __getitem__(self, stage: str) -> Tensor:
        """A stage of this block, after the blocks of the last one; or a stage of the stem."""
        if stage in STEM and self.number is None:
            return self.steps[stage]
        return self.steps[f"block.{self.block_number}.{stage}"]

    @property
    def model(self) -> WhisperEncoder:
        return self.steps.model

    @property
    def block_number(self) -> int:
        return len(self.model.blocks) - 1 if self.number is None else self.number

    @property
    def block_input(self) -> Tensor:
        """(B, T, S)"""
        return self.steps.input_of(self.block_number)

    @property
    def block(self) -> Any:
        """This block, after the blocks the last one."""
        return self.model.blocks[self.block_number]


def input_of(block: int) -> Stage:
    """The stage that a block gets."""
    return Stage(f"block.{block - 1}.mlp_residual" if block else "positions")


def changed_weights(entry: Any, model: WhisperEncoder) -> Weights:
    """The model's weights, those of the stages at which the mistake is made as it changes them."""
    weights: Weights = dict(model.state_dict())
    changed = entry.weights(weights) if entry.weights else weights
    return {n: changed[n] if entry.is_made_at(stage_of(n)) else w for n, w in weights.items()}


def stage_of(weight: str) -> Stage:
    """The stage that is computed with a weight of this name."""
    return Stage(re.sub(r"\.(weight|bias)$", "", weight).replace("blocks.", "block."))


def run(
    entry: Any, model: WhisperEncoder, mel: Tensor, tap: Tap = no_tap, n_audio: int = 0
) -> Tensor:
    """The last hidden state (B, T, S) of features (B, M, F) with the mistake made.

    `tap(stage, tensor)` sees every stage, in order, and returns what the next ones get.
    n_audio: as of `Steps`.
    """
    steps = Steps(entry, model, {"features": mel}, n_audio)
    if tap is not no_tap:
        for stage in of_encoder(model.config.n_audio_layer):
            steps.done[stage] = tap(stage, steps[stage])
    return steps[LN_POST]
