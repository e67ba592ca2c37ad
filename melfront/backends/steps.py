"""The steps of the front end on tensors: torch's operations, or a kernel in their slot.

# B clips  N n_fft = 400  F frames, H that hear the clips
# K frequencies = 201  M mel bins
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.nn import functional

from ..audio import is_traced
from ..conventions import N_FFT, N_FRAMES, Convention
from .front_end import OURS, Kernels, check_length

LOG10_FLOOR = -10.0  # log10(LOG_FLOOR)

# What each kernel returns for its arguments.
SHAPES: dict[str, Any] = {
    "stft": lambda frames, _window: (*frames.shape[:-1], N_FFT // 2 + 1),
    "mel": lambda power, filters: (*power.shape[:-2], len(filters), power.shape[-2]),
    "log_scale": lambda mel: tuple(mel.shape),
    "log_mel": lambda audio, n_mels: (*audio.shape[:-1], n_mels, N_FRAMES),
}


@dataclass(frozen=True)
class Steps:
    """The steps of one call of the front end, each by a kernel or by ours."""

    kernels: Kernels = OURS
    batched: bool = True  # False: one clip, which a kernel gets without the axis B

    def stft(self, frames: Tensor, window: Tensor) -> Tensor:
        """The power of each frequency: (B, H, N) -> (B, H, K)."""
        if self.kernels.stft is not None:
            return self.run("stft", frames.to(window.dtype), window)
        spectrum = torch.view_as_real(torch.fft.rfft(frames * window))  # (B, H, K, 2)
        real, imag = spectrum.unbind(-1)  # (B, H, K) each
        # A sum over the axis of two takes a GPU as long as the transform itself.
        return torch.addcmul(real.square(), imag, imag)  # (B, H, K)

    def mel(self, power: Tensor, filters: Tensor) -> Tensor:
        """(B, H, K) -> (B, M, H)"""
        if self.kernels.mel is not None:
            return self.run("mel", power, filters)
        bank = filters.expand(power.shape[0], -1, -1)  # (B, M, K)
        return torch.bmm(bank, power.mT)  # (B, M, H), contiguous, which @ would not be

    def log_scale(
        self,
        mel: Tensor,
        uncounted: Tensor | None,
        n_frames: int,
        n_silent: int,
        convention: Convention,
    ) -> Tensor:
        """Mel power (B, M, H) to features (B, M, F).

        uncounted: frames whose values do not count for the maximum; it broadcasts with mel. Of the
        n_frames = F wanted, the last n_silent hear only silence and are not in `mel`.
        """
        if self.kernels.log_scale is not None:
            return self.run("log_scale", functional.pad(mel, (0, n_silent)))
        log = mel.clamp(min=convention.log_floor).log10()  # (B, M, H)
        counted = log if uncounted is None else log.masked_fill(uncounted, -math.inf)
        axes = (0, 1, 2) if convention.max_scope == "batch" else (1, 2)
        least = counted.amax(axes, keepdim=True) - convention.dynamic_range
        clamped = torch.maximum(log, least)[..., :n_frames]
        if n_silent > 0:
            tail = least.clamp(min=LOG10_FLOOR).expand(*clamped.shape[:2], n_silent)
            clamped = torch.cat([clamped, tail], dim=-1)  # (B, M, F)
        return (clamped + convention.offset) / convention.divisor

    def log_mel(self, clips: Tensor, length: int, n_mels: int) -> Tensor:
        """Clips (B, n), to be padded to `length`, to features (B, M, F), by the kernel."""
        check_length(length)
        if n_mels < 1:
            raise ValueError(f"n_mels={n_mels}; expected at least one bin")
        return self.run("log_mel", clips, n_mels=n_mels)

    def run(self, slot: str, x: Tensor, *args: Any, **options: Any) -> Tensor:
        """The kernel in the slot. Raises ValueError for a result that cannot be right."""
        x = x if self.batched else x[0]
        out = getattr(self.kernels, slot)(x, *args, **options)
        if not isinstance(out, Tensor):
            raise ValueError(
                f"the kernel in the slot {slot} returned {type(out).__name__}; expected a tensor "
                "(a function of arrays takes x.numpy(), and torch.from_numpy what it returns)"
            )
        if not is_traced(x):
            check_result(slot, out, x, SHAPES[slot](x, *args, **options))
        return out if self.batched else out[None]


def check_result(slot: str, out: Tensor, x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the result of a kernel for x has this shape and is like x."""
    got, expected = [
        f"{tuple(size)} {dtype} on {device}".replace("torch.", "")
        for size, dtype, device in [(out.shape, out.dtype, out.device), (shape, x.dtype, x.device)]
    ]
    if got != expected:
        raise ValueError(f"the kernel in the slot {slot} returned {got}; expected {expected}")
    if is_followed(x) and not is_followed(out):
        raise ValueError(
            f"the kernel in the slot {slot} has no gradient, and its argument requires one; call "
            "it under torch.no_grad(), or give it one by torch.autograd.Function"
        )


def is_followed(x: Tensor) -> bool:
    """Does autograd follow what is done to x? Forward mode says nothing in requires_grad."""
    return (torch.is_grad_enabled() and x.requires_grad) or unpack_dual(x).tangent is not None
