"""What an entry of the catalogue is: our pipeline with one decision changed.

A front-end entry changes fields of `melfront.Convention`. An encoder entry is our model with an op
replaced (`encoder.ops.using`), weights changed as they are loaded, or a stage rewritten from those
before it. A mistake in a block is made in every block; its entry names the stage of block 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import Tensor

from melfront.conventions import TRANSFORMERS, Convention

from ..stages import FRONT_END, Stage
from .wrong_ops import Weights

Rewrite = Callable[[Any, Tensor], Tensor]  # of `steps.At` and of the stage as it would be


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
    where: frozenset[Stage] | None = None  # the stages at which it is made; None: all

    def is_made_at(self, stage: Stage) -> bool:
        return self.where is None or stage in self.where


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
