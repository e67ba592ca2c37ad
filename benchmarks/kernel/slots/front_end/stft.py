"""stft(frames, window)

The squared magnitude of each frequency of each frame.

frames (F, N) or (B, F, N), a view with overlaps; window (N,) -> (F, K) or (B, F, K)
"""

from __future__ import annotations

from math import log2

import torch
from torch import Tensor

from melfront import variants
from melfront.conventions import TRANSFORMERS, Convention

from ..base import Array, Call, Function, Slot
from ..inputs import Case, Dice
from . import constants, framed


def stft(frames: Tensor, window: Tensor) -> Tensor:
    """As `melfront.backends.torch_backend` does it."""
    return torch.view_as_real(torch.fft.rfft(frames * window)).square().sum(-1)  # (..., F, K)


def in_numpy(frames: Array, window: Array) -> Array:
    from scipy.fft import rfft

    spectrum = rfft(frames * window)
    return spectrum.real**2 + spectrum.imag**2


def under(c: Convention) -> Function:
    own_window = {"window", "periodic", "win_length"} & set(c.changes())

    def run(frames: Array, window: Array) -> Array:
        windowed = frames * (variants.window(c) if own_window else window)
        return variants.power(variants.spectrum(windowed, c), c)

    return run


def flops_of(n_frames: int, n: int = 400) -> float:
    """A real transform takes 2.5 N log2 N, the window N, and the squares 3 for each frequency."""
    return n_frames * (2.5 * n * log2(n) + n + 1.5 * n)


def speech(audio: Tensor, n_mels: int) -> Call:
    return (framed(audio), constants(n_mels)[0]), {}


def edges(dice: Dice) -> list[Case]:
    window = constants(80)[0].to(dice.dtype)
    n = dice.size("F", 53, 59, 61, 67)
    frames = dice.normal(dice.size("B", 3), n, 400, std=0.1)
    clip = dice.normal(160 * n + 7, std=0.1)
    tone = torch.sin(torch.arange(160 * n) * 0.37).to(dice.dtype)
    return [
        Case("prime size", (frames, window)),
        Case("overlapping frames", (framed(clip), window)),
        Case("tone", (framed(tone), window)),
        Case("silence", (torch.zeros_like(frames[0]), window)),
    ]


SLOT = Slot(
    __name__,
    __doc__,
    stft,
    under(TRANSFORMERS),
    lambda frames, _window: flops_of(frames[..., 0].numel()),
    edges,
    weights=1,
    numpy=in_numpy,
    speech=speech,
    stages=("windowed", "spectrum", "power"),
    under=under,
)
