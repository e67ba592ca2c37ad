"""log_mel(audio, n_mels)

The whole front end, waveform to features.

audio (L,) or (B, L), 16 kHz, up to 30 s -> (n_mels, 3000) or (B, n_mels, 3000)
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import melfront
from melfront import variants
from melfront.backends import torch_backend
from melfront.conventions import CHUNK_LENGTH, HOP_LENGTH, N_SAMPLES, TRANSFORMERS, Convention

from ..base import Call, Function, Slot
from ..inputs import Case, Dice
from . import stft


def log_mel(audio: Tensor, n_mels: int) -> Tensor:
    """In float32, as on every device: what `melfront.log_mel` does on a CPU is a rival."""
    return torch_backend.log_mel_of_tensor(
        audio, n_mels, TRANSFORMERS, CHUNK_LENGTH, truncate=False, return_mask=False
    )


def under(c: Convention) -> Function:
    return partial(variants.log_mel, convention=c)


def flops(audio: Tensor, n_mels: int) -> float:
    """Of the transforms, of the two filters that each frequency is in, and of the logarithms."""
    n_frames = audio.numel() // HOP_LENGTH
    return stft.flops_of(n_frames) + n_frames * (2 * 394 + 6 * n_mels)


def speech(audio: Tensor, n_mels: int) -> Call:
    return (audio,), {"n_mels": n_mels}


def edges(dice: Dice) -> list[Case]:
    n = dice.size("L", 15_991, 24_001, 31_991)
    if n > N_SAMPLES:
        return []  # longer than 30 s
    noise, bins = dice.normal(n, std=0.1), {"n_mels": dice.size("n_mels", 80)}
    click = torch.zeros(n, dtype=dice.dtype)
    click[dice.below(n)] = 0.7
    tone = torch.sin(torch.arange(N_SAMPLES) * 0.37).to(dice.dtype)
    loud = torch.tensor([1.0, 1e-3, 0.05], dtype=dice.dtype)
    b = dice.size("B", 3)
    dice.room(b, N_SAMPLES)
    batch = noise * loud.repeat(b)[:b, None]
    return [
        Case("prime size", (noise,), bins),
        Case("128 bins", (noise,), {"n_mels": 128}),
        Case("batch of unequal loudness", (batch,), bins),
        Case("silence", (torch.zeros(n, dtype=dice.dtype),), bins),
        Case("click", (click,), bins),
        Case("30 s of a tone", (tone,), bins),
    ]


SLOT = Slot(
    __name__,
    __doc__,
    log_mel,
    under(TRANSFORMERS),
    flops,
    edges,
    numpy=melfront.log_mel,
    axis=-1,
    step=HOP_LENGTH,
    speech=speech,
    under=under,
)
