"""What a slot is, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from melfront.conventions import Convention
from melfront.encoder import WhisperEncoder, oracle

from .inputs import Case, Dice, extent

Array = np.ndarray[Any, Any]
Function = Callable[..., Any]
Call = tuple[tuple[Any, ...], dict[str, Any]]  # the arguments of one call
f64 = oracle.as_float64


@dataclass(frozen=True)
class Slot:
    """An op, and what it takes to prove a kernel for it and to time it.

    `reference`, `truth` and `flops` take the arguments of a call, as tensors.
    """

    module: str  # `__name__` of the slot's file
    doc: str  # its docstring: three paragraphs, how it is called, what it does, its shapes
    reference: Function  # ours, which is the first rival: a tensor, or a tuple of tensors
    truth: Function  # the same in float64 NumPy: an array, or a list of arrays
    flops: Callable[..., float]  # floating-point operations that no kernel can do without
    edges: Callable[[Dice], list[Case]]  # small cases that break kernels
    # Other ways to do it, to be timed with it: in NumPy, and in torch by name.
    numpy: Function | None = None
    torch: dict[str, Function] = field(default_factory=dict)
    # Which part of a case is enough for Triton's interpreter: the first steps along this axis of
    # the first `along` arguments, each step so many elements.
    axis: int = -2
    along: int = 1
    step: int = 1

    # The front end's: the call for audio (..., L) with so many mel bins, the stages of
    # `parity.stages` that the slot computes (none: all), and what it computes under a convention.
    speech: Callable[[Tensor, int], Call] | None = None
    stages: tuple[str, ...] = ()
    under: Callable[[Convention], Function] | None = None

    # The encoder's: the functions that must be in use for the model to call the slot at all; the
    # op that it calls, if its name is not the slot's; or, without such an op, the calls that it
    # makes while features (B, M, F) go through it; and what puts a kernel into a model, which may
    # change the model and returns what `encoder.ops.using` gets.
    around: dict[str, Function] = field(default_factory=dict)
    op: str = ""
    calls: Callable[[WhisperEncoder, Tensor], list[Call]] | None = None
    fill: Callable[[WhisperEncoder, Function], dict[str, Function]] | None = None

    @property
    def name(self) -> str:
        return self.module.rpartition(".")[2]

    @property
    def front_end(self) -> bool:
        return self.speech is not None

    @property
    def rivals(self) -> dict[str, tuple[Function, str]]:
        """Name -> function, and "torch" or "numpy" for the arrays that it takes."""
        numpy = {"numpy": (self.numpy, "numpy")} if self.numpy else {}
        return {**numpy, **{name: (function, "torch") for name, function in self.torch.items()}}

    @property
    def paragraphs(self) -> list[str]:
        """How it is called, what it does, and its shapes; each a line."""
        return [" ".join(paragraph.split()) for paragraph in self.doc.strip().split("\n\n")]

    @property
    def call(self) -> str:
        return self.paragraphs[0]

    def installed(self, model: WhisperEncoder, kernel: Function | None) -> dict[str, Function]:
        """What `encoder.ops.using` gets for the model to use this kernel, or for None ours."""
        if kernel is None or self.front_end:
            return dict(self.around)
        filled = self.fill(model, kernel) if self.fill else {self.op or self.name: kernel}
        return {**self.around, **filled}


def elementwise(flops: float) -> Callable[..., float]:
    """The work of so many operations for each element of the first argument."""
    return lambda x, *_: flops * prod(x.shape)


def least_bytes(args: tuple[Any, ...], outs: list[Tensor]) -> float:
    """The bytes of every argument read once and every result written once."""
    given = [a for a in args if isinstance(a, Tensor)]
    # Overlapping frames take less memory than they have elements.
    read = sum(min(t.numel(), extent(t)) * t.element_size() for t in given)
    return float(read + sum(o.numel() * o.element_size() for o in outs))


def results(slot: Slot, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """What the reference makes of the arguments: contiguous tensors of their dtype."""
    with torch.no_grad():
        out = slot.reference(*args, **kwargs)
    return [t.contiguous() for t in (out if isinstance(out, (tuple, list)) else [out])]
