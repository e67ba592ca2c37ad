"""Arguments of calls, and the random numbers that they are made of.

# B batch  T positions  S state
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..reasons import Refused
from .signature import Shapes

HEAD_DIM = 64  # of every published Whisper; a kernel may rely on it
POOL = 1 << 23  # random numbers that are drawn once and cut into contents
MOST = 1 << 27  # numbers of an array; 1 GiB in float64


@dataclass
class Case:
    """The arguments of one call. `vary` says how other contents of the same kind are made:

    "scale" changes each value by up to 5 %, "add" adds up to 5 % of the standard deviation. "bits"
    draws zeros and ones anew, "integers" whole numbers up to the largest of each argument: nothing
    needs rounding, so the result must be exact.
    """

    label: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    vary: str = "scale"
    seen: bool = False  # the model calls the slot with these shapes, so it is timed

    def tensors(self) -> list[Tensor]:
        return [a for a in self.args if isinstance(a, Tensor)]

    def shape(self) -> str:
        return " x ".join(map(str, self.args[0].shape))


class Dice:
    """The random numbers of one run, all drawn from its seed."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.pool = torch.rand(POOL, generator=self.generator) * 2 - 1
        self.dtype = dtype
        self.shapes: Shapes = {}  # what the kernel declares
        self.sizes: dict[str, int] = {}  # those of them that `size` returns now

    def below(self, n: int) -> int:
        return int(torch.randint(n, (), generator=self.generator))

    def size(self, letter: str, *candidates: int) -> int:
        """The size that the kernel declares for this letter, or one of these."""
        return self.sizes.get(letter) or candidates[self.below(len(candidates))]

    def room(self, *shape: int) -> None:
        """Raises Refused if an array of this shape is too large to make."""
        if prod(shape) > MOST:
            words = " x ".join(map(str, shape))
            raise Refused("SIGNATURE", f"SHAPES asks for {words} numbers, more than {MOST:,}")

    def normal(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        self.room(*shape)
        x = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return (x * std + mean).to(self.dtype)

    def bits(self, *shape: int) -> Tensor:
        self.room(*shape)
        return (torch.rand(shape, generator=self.generator) < 0.5).to(self.dtype)

    def integers(self, most: int, *shape: int) -> Tensor:
        """Whole numbers from -most to most, which is one of them."""
        drawn = torch.randint(-most, most + 1, shape, generator=self.generator)
        drawn.view(-1)[0] = most
        return drawn.to(self.dtype)

    def linear(self, n_out: int, n_in: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a linear map that keeps the scale of its input."""
        return self.normal(n_out, n_in, std=n_in**-0.5), self.normal(n_out)

    def noise(self, n: int) -> Tensor:
        """n numbers in -1 .. 1, cut from the pool where no kernel can foresee it."""
        pieces, half = [], POOL // 2
        for have in range(0, n, half):
            start = self.below(half)
            pieces.append(self.pool[start : start + min(n - have, half)])
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def vary(self, case: Case, weights: bool = True, into: Case | None = None) -> Case:
        """The same case with other contents of the same shapes, strides and scale.

        weights: whether those change too, or only the first argument. into: contents of this case
        that are no longer needed, whose memory these get: fresh memory takes longer to be mapped
        than to be written.
        """
        if into is not None:
            for a, old in zip(case.tensors(), into.tensors(), strict=True):
                flat(old).copy_(self.varied(a, case.vary))
            return into
        args = [
            self.varied(a, case.vary).as_strided(a.shape, a.stride())
            if isinstance(a, Tensor) and (weights or i == 0)
            else a
            for i, a in enumerate(case.args)
        ]
        return replace(case, args=tuple(args))

    def varied(self, tensor: Tensor, how: str) -> Tensor:
        """Other contents, flat."""
        base = flat(tensor)
        noise = self.noise(len(base))
        if how == "bits":
            return (noise > 0).to(tensor.dtype)
        if how == "integers":
            made = (base.abs().max() * noise).round().to(tensor.dtype)
            made[0] = base.abs().max()  # so that contents may be made of these in their turn
            return made
        if how == "add":
            step = 0.05 * float(tensor.float().std(correction=0))
            return (base + step * noise).to(tensor.dtype)
        return torch.addcmul(base.float(), base, noise, value=0.05).to(tensor.dtype)


def extent(tensor: Tensor) -> int:
    """How many elements of memory lie from a tensor's first to its last, gaps included."""
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def flat(tensor: Tensor) -> Tensor:
    """The elements from a tensor's first to its last in memory, gaps included."""
    return tensor.as_strided((extent(tensor),), (1,))


def whole_numbers(dice: Dice, shape: tuple[int, ...], *others: tuple[int, ...]) -> list[Case]:
    """A case of products that need no rounding in float32, and do where factors keep 11 bits or 8.

    The first argument has numbers of 12 bits, the others of 3, and their sums stay below 2^24.
    16-bit dtypes cannot hold them.
    """
    if dice.dtype != torch.float32:
        return []
    args = (dice.integers(4095, *shape), *(dice.integers(7, *other) for other in others))
    return [Case("whole numbers", args, vary="integers")]


def tiny(dice: Dice, *others: Tensor, shape: tuple[int, ...]) -> Case:
    """Numbers around 1e-39, which float32 holds with fewer bits, and the other arguments."""
    return Case("below 1e-38", (1e-39 * dice.normal(*shape).sign(), *others))


def strided(x: Tensor) -> Tensor:
    """The same values, with a NaN in memory after each of them."""
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), float("nan"), dtype=x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def sizes(dice: Dice, *letters: str) -> tuple[int, int, int]:
    """B, T and S, or three others: different primes, unless the kernel declares them."""
    first, second, third = letters or ("B", "T", "S")
    return (
        dice.size(first, 3),
        dice.size(second, 53, 59, 61, 67, 71, 73),
        dice.size(third, 101, 107, 127, 131, 149, 173),
    )
