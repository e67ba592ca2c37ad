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
from melfront.encoder import WhisperEncoder, ops
from melfront.encoder.oracle import as_float64

from .inputs import Case, Dice, extent
from .signature import parameters

Array = np.ndarray[Any, Any]
Function = Callable[..., Any]
Call = tuple[tuple[Any, ...], dict[str, Any]]  # the arguments of one call


@dataclass(frozen=True)
class Slot:
    """An op, and what it takes to prove a kernel for it and to time it.

    `reference` and `flops` take the arguments of a call, as tensors. `truth` and what `under`
    returns take the same in float64 NumPy.
    """

    module: str  # `__name__` of the slot's file
    doc: str  # its docstring: three paragraphs, how it is called, what it does, its shapes
    reference: Function  # ours, which is the first rival: a tensor, or a tuple of tensors
    truth: Function  # an array, or a list of arrays
    flops: Callable[..., float]  # floating-point operations that no kernel can do without
    edges: Callable[[Dice], list[Case]]  # small cases that break kernels
    # How many of the arguments after the first are weights, which a kernel may prepare. If there
    # are any, no other argument after the first is an array.
    weights: int = 0
    # A call with numbers below 1e-38, whose result is not zero: does a kernel count them as zero?
    small: Callable[[Dice], Case] | None = None
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

    # The encoder's: the functions that must be in use for the model to call the slot at all; and,
    # if the slot is not an op of the same name, what puts a kernel into a model, which may change
    # the model and returns what `encoder.ops.using` gets.
    around: dict[str, Function] = field(default_factory=dict)
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

    @property
    def prepared_call(self) -> str:
        """How a kernel with a `prepare` is called."""
        names = parameters(self.call)
        rest = ", ".join([names[0], "prepared", *names[1 + self.weights :]])
        return f"{self.name}({rest}), with {self.prepare_call}"

    @property
    def prepare_call(self) -> str:
        """How a kernel's `prepare` is called."""
        return f"prepare({', '.join(parameters(self.call)[1 : 1 + self.weights])})"

    def ours(self, *args: Any, **kwargs: Any) -> Any:
        """What the reference returns, whatever ops are in use around it."""
        with torch.no_grad(), ops.using(**vars(ops.OURS)):
            return self.reference(*args, **kwargs)

    def results(self, case: Case) -> list[Tensor]:
        """What the reference makes of a case: contiguous tensors of its dtype."""
        return [out.contiguous() for out in as_list(self.ours(*case.args, **case.kwargs))]

    def truths(self, case: Case) -> list[Array]:
        """The right results of a case, float64."""
        return as_list(self.truth(*in_float64(case.args), **case.kwargs))

    def installed(self, model: WhisperEncoder, kernel: Function | None) -> dict[str, Function]:
        """What `encoder.ops.using` gets for the model to use this kernel, or for None ours."""
        if kernel is None or self.front_end:
            return self.around
        return {**self.around, **(self.fill(model, kernel) if self.fill else {self.name: kernel})}


def as_list(out: Any) -> list[Any]:
    """What a function returns, as a list of one or several results."""
    return list(out) if isinstance(out, (tuple, list)) else [out]


def in_float64(args: tuple[Any, ...]) -> list[Any]:
    """The arguments of a call with float64 arrays in the place of tensors."""
    return [as_float64(a) if isinstance(a, Tensor) else a for a in args]


def elementwise(flops: float) -> Callable[..., float]:
    """The work of so many operations for each element of the first argument."""
    return lambda x, *_: flops * prod(x.shape)


def least_bytes(case: Case, outs: list[Tensor]) -> float:
    """The bytes of every argument read once and every result written once."""
    # Overlapping frames take less memory than they have elements.
    read = sum(min(t.numel(), extent(t)) * t.element_size() for t in case.tensors())
    return float(read + sum(o.numel() * o.element_size() for o in outs))
