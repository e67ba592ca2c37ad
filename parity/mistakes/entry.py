"""What an entry of the catalogue is: our pipeline with one decision changed.

A front-end entry changes fields of `melfront.Convention`. An encoder entry is our model with an op
replaced (`encoder.ops.using`), weights changed as they are loaded, or a stage rewritten from those
before it. A mistake in a block is made in every block; its entry names the stage of block 0.

    # B batch  T positions  S state
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from melfront.conventions import TRANSFORMERS, Convention
from melfront.encoder import WhisperEncoder, ops
from melfront.encoder.model import Tap, no_tap

from ..stages import FRONT_END, Stage
from .wrong_ops import Weights


@dataclass(frozen=True)
class FrontEndMistake:
    """One decision changed. `change` is what `Convention` is given instead of its defaults."""

    name: str
    stage: Stage  # the first stage that it spoils
    change: tuple[tuple[str, Any], ...]
    sentence: str  # what is wrong, and how people come to do it
    seen: str = ""  # where it has shipped

    def convention(self, base: Convention = TRANSFORMERS) -> Convention:
        return replace(base, name=self.name, **dict(self.change))


@dataclass(frozen=True)
class EncoderMistake:
    """One decision changed: ops replaced, weights changed, or stages rewritten."""

    name: str
    stage: Stage  # the first stage that it spoils, in block 0 if in a block
    sentence: str  # what is wrong, and how people come to do it
    seen: str = ""  # where it has shipped
    ops: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    weights: Callable[[Weights], Weights] | None = None
    rewrite: Mapping[str, Rewrite] = field(default_factory=dict)  # by stage, without "block.i."
    needs_clip: bool = False  # its ops take how many positions hold audio as first argument


# --- how entries are written ----------------------------------------------------------------------


def mistake(text: str, seen: str = "", **change: Any) -> FrontEndMistake:
    """The front-end entry "name: sentence", which changes these fields of `Convention`.

    It spoils the first stage that one of the fields names; `padded` if it changes none.
    """
    name, sentence = text.split(": ", 1)
    spoilt = {f.metadata["stage"] for f in fields(Convention) if f.name in change}
    stage = next((stage for stage in FRONT_END if stage in spoilt), FRONT_END[0])
    return FrontEndMistake(name, stage, tuple(change.items()), sentence, seen)


def encoder_mistake(
    text: str,
    seen: str = "",
    weights: Callable[[Weights], Weights] | None = None,
    rewrite: Mapping[str, Rewrite] | None = None,
    needs_clip: bool = False,
    **replaced: Callable[..., Any],
) -> Callable[[Stage], EncoderMistake]:
    """The encoder entry "name: sentence", with these ops replaced; `catalogue` gives its stage."""
    name, sentence = text.split(": ", 1)
    return lambda stage: EncoderMistake(
        name, stage, sentence, seen, replaced, weights, rewrite or {}, needs_clip
    )


def catalogue(*items: str | Callable[[Stage], EncoderMistake]) -> list[EncoderMistake]:
    """Encoder entries, each after the name of the first stage that it spoils."""
    entries = []
    for item in items:
        if isinstance(item, str):
            stage = Stage(item)
        else:
            entries.append(item(stage))
    return entries


# --- how encoder entries are run ------------------------------------------------------------------


@dataclass
class At:
    """Where a rewrite stands: the model, the stages so far, and the block being run."""

    model: WhisperEncoder
    seen: dict[str, Tensor] = field(default_factory=dict)
    number: int = -1  # of the block; -1 before the blocks, and still the last one's after them

    def __getitem__(self, stage: str) -> Tensor:
        """A stage of this block, or of the stem."""
        own = f"block.{self.number}.{stage}"
        return self.seen[own if own in self.seen else stage]

    @property
    def block_input(self) -> Tensor:
        """(B, T, S)"""
        return self.seen[f"block.{self.number - 1}.mlp_residual" if self.number else "positions"]

    @property
    def block(self) -> Any:
        """The block being run, after the blocks the last one."""
        return self.model.blocks[self.number]


Rewrite = Callable[[At, Tensor], Tensor]


def run(
    entry: EncoderMistake, model: WhisperEncoder, mel: Tensor, tap: Tap = no_tap, n_audio: int = 0
) -> Tensor:
    """The model's last hidden state (B, T, S) with the mistake made; `tap` sees every stage.

    n_audio: how many positions hold audio, for the mistakes that treat the others differently.
    """
    if entry.weights:
        changed = entry.weights(dict(model.state_dict()))
        model = WhisperEncoder.from_weights(model.config, changed)
    replaced = dict(entry.ops)
    if entry.needs_clip:
        replaced = {slot: partial(function, n_audio) for slot, function in replaced.items()}
    if {"scores", "softmax"} & replaced.keys():  # slots that our `attention` does not call
        replaced.setdefault("attention", ops.explicit_attention)
    if entry.rewrite:
        tap = rewriting(entry, model, tap)
    with ops.using(**replaced), torch.no_grad():
        return model(mel, tap=tap).last_hidden_state


def rewriting(entry: EncoderMistake, model: WhisperEncoder, tap: Tap) -> Tap:
    """A tap that rewrites the mistake's stages before it hands them on."""
    at = At(model)

    def hook(name: str, tensor: Tensor) -> Tensor:
        stage = Stage(name)
        if stage.block is not None:
            at.number = stage.block
        if stage.within in entry.rewrite:
            tensor = entry.rewrite[stage.within](at, tensor)
        tensor = tap(name, tensor)
        if "H" not in stage.axes:  # scores and weights are large, and no rewrite asks for them
            at.seen[name] = tensor
        return tensor

    return hook
