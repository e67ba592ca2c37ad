"""What an entry of the catalogue is: our pipeline with one decision changed.

A front-end entry changes fields of `melfront.Convention`. An encoder entry is our model with an op
replaced (`encoder.ops.using`), weights changed as they are loaded, or a stage rewritten from those
before it. Each names the first stage that it spoils. A mistake in a block is made in every block;
its entry names the stage of block 0.

    # B batch  T positions  S state
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from torch import Tensor

from melfront.conventions import TRANSFORMERS, Convention
from melfront.encoder import WhisperEncoder, ops

from ..stages import Stage
from .wrong_ops import Weights


@dataclass(frozen=True)
class FrontEndMistake:
    """One decision changed. `change` is what `Convention` is given instead of its defaults."""

    name: str
    stage: Stage  # the first stage that it spoils
    change: tuple[tuple[str, Any], ...]
    sentence: str  # what is wrong, and how people come to do it
    seen: str = ""  # where it has shipped

    def __post_init__(self) -> None:
        object.__setattr__(self, "stage", Stage(self.stage))  # a stage's name will do

    def convention(self, base: Convention = TRANSFORMERS) -> Convention:
        return replace(base, name=self.name, **dict(self.change))


@dataclass
class At:
    """Where a rewrite stands: the model, the stages so far, and the block being run."""

    model: WhisperEncoder
    seen: dict[str, Tensor]
    block: int | None = None

    def __getitem__(self, stage: str) -> Tensor:
        """A stage of this block, or of the stem."""
        own = f"block.{self.block}.{stage}"
        return self.seen[own if own in self.seen else stage]

    @property
    def block_input(self) -> Tensor:
        return self.block_output(self.number - 1)

    def block_output(self, number: int) -> Tensor:
        """What a block returned; of number -1 the input of block 0."""
        return self.seen[f"block.{number}.mlp_residual" if number >= 0 else "positions"]

    def norm(self, x: Tensor, which: str) -> Tensor:
        """x (B, T, S) through this block's attn_ln or mlp_ln, or through ln_post."""
        owner = self.model if which == "ln_post" else self.model.blocks[self.number]
        layer = getattr(owner, which)
        return ops.current().layer_norm(x, layer.weight, layer.bias)

    @property
    def number(self) -> int:
        assert self.block is not None, "outside the blocks"
        return self.block


Rewrite = Callable[[At, Tensor], Tensor]


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
    needs_clip: bool = False  # depends on how many positions hold audio

    def __post_init__(self) -> None:
        object.__setattr__(self, "stage", Stage(self.stage))


Entry = TypeVar("Entry", FrontEndMistake, EncoderMistake)


def mistake(
    name: str, sentence: str, seen: str = "", **change: Any
) -> Callable[[Stage], FrontEndMistake]:
    """A front-end entry that changes these fields of `Convention`; `catalogue` gives its stage."""
    return lambda stage: FrontEndMistake(name, stage, tuple(change.items()), sentence, seen)


def encoder_mistake(
    name: str, sentence: str, seen: str = "", **change: Any
) -> Callable[[Stage], EncoderMistake]:
    """An encoder entry with these fields of `EncoderMistake`: ops, weights or rewrite."""
    return lambda stage: EncoderMistake(name, stage, sentence, seen, **change)


def catalogue(*items: str | Callable[[Stage], Entry]) -> list[Entry]:
    """Entries, each after the name of the first stage that it spoils."""
    entries = []
    for item in items:
        if isinstance(item, str):
            stage = Stage(item)
        else:
            entries.append(item(stage))
    return entries
