"""The clip made again from its features: what of it Whisper can still know.

The features hold no phases. Griffin and Lim's algorithm (1984) finds some that agree with each
other: it goes from spectrum to waveform and back, and keeps the sizes that it was given each time.

    # F frames  K frequencies  M mel bins  L samples
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import melfront
from melfront.conventions import TRANSFORMERS

STEPS = 32
TINY = 1e-20
MOMENTUM = 0.99  # of the faster variant of Perraudin, Balazs and Sondergaard (2013)


def spectrum_of(features: NDArray[Any]) -> Tensor:
    """Sizes of the frequencies (K, F) whose mel energies are those of features (M, F).

    There are more frequencies than mel bins. Of all answers without negative power, the
    multiplicative updates of Lee and Seung (2001) find one that is smooth.
    """
    log = features * TRANSFORMERS.divisor - TRANSFORMERS.offset
    mel = torch.from_numpy(10.0**log).float()  # (M, F)
    bank = torch.tensor(melfront.mel_filters(len(features)), dtype=torch.float32)  # (M, K)
    power = spread = bank.mT @ mel
    for _ in range(STEPS):
        power = power * spread / (bank.mT @ (bank @ power)).clamp(min=TINY)
        power = power.clamp(min=TINY)  # numbers below 1e-38 are slow
    return power.sqrt()


def rebuild(features: NDArray[Any], n_samples: int) -> NDArray[np.float32]:
    """A waveform (L,) with these features (M, F), as far as there is one."""
    heard = -(-(n_samples + melfront.N_FFT // 2) // melfront.HOP_LENGTH)  # frames
    sizes = spectrum_of(features[:, :heard])
    sizes = torch.nn.functional.pad(sizes, (0, 1))  # the frame that Whisper drops
    form: dict[str, Any] = {"n_fft": melfront.N_FFT, "hop_length": melfront.HOP_LENGTH}
    form["window"] = torch.hann_window(melfront.N_FFT)
    turns = torch.rand(sizes.shape, generator=torch.Generator().manual_seed(0))
    phases, before = torch.polar(torch.ones_like(sizes), 2 * torch.pi * turns), torch.tensor(0)
    for _ in range(STEPS):
        waveform = torch.istft(sizes * phases, **form)
        now = torch.stft(waveform, **form, return_complex=True)
        phases = now - before * (MOMENTUM / (1 + MOMENTUM))
        phases = phases / phases.abs().clamp(min=1e-12)
        before = now
    waveform = torch.istft(sizes * phases, **form)[:n_samples]
    return torch.nn.functional.pad(waveform, (0, n_samples - len(waveform))).numpy()
