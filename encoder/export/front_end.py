"""The front end in operations that every runtime computes right in float32.

ONNX has an operator for the Fourier transform, DFT. In float32 onnxruntime 1.32 is 3e-5 off there,
a thousand times what an FFT is, and features of the sample clip come out at 190 x noise. A length
that is no power of two, as 400, it transforms by Bluestein's algorithm, with angles pi n n / 400 in
float32: up to 1251, where float32 has a step of 1e-4. (512 samples are 4e-7 off, and 400 in float64
6e-14.) OpenVINO 2026.4 cannot read the operator as torch writes it. So the transform is a
convolution here: the window and the waves are its weights, computed in float64.

    # B clips  L samples  N n_fft = 400  K frequencies = 201  F frames  M mel bins
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from melfront import oracle
from melfront.conventions import DYNAMIC_RANGE, HOP_LENGTH, LOG_FLOOR, N_FFT
from melfront.filterbank import mel_filters


def waves() -> Tensor:
    """Each frequency's cosine, then each one's sine, under the window: (2 K, 1, N) float32."""
    k, n = np.arange(N_FFT // 2 + 1)[:, None], np.arange(N_FFT)
    angles = 2 * np.pi * (k * n % N_FFT) / N_FFT  # (K, N)
    windowed = np.concatenate([np.cos(angles), np.sin(angles)]) * oracle.window()  # (2 K, N)
    return torch.from_numpy(windowed[:, None]).float()


class FrontEnd(nn.Module):
    """Clips of equal length, already padded to 30 s, to log-mel features, in float32.

    (B, L) -> (B, M, F), F = L / 160. Checks no value. Each clip has its own maximum. Reproduces
    transformers' WhisperFeatureExtractor, within its float32 noise.
    """

    waves: Tensor
    filters: Tensor

    def __init__(self, n_mels: int) -> None:
        super().__init__()
        self.register_buffer("waves", waves())
        self.register_buffer("filters", torch.from_numpy(mel_filters(n_mels).copy()).float())

    def forward(self, audio: Tensor) -> Tensor:
        half = N_FFT // 2
        padded = functional.pad(audio[:, None], (half, half), mode="reflect")  # (B, 1, L + N)
        spectrum = functional.conv1d(padded, self.waves, stride=HOP_LENGTH)  # (B, 2 K, F + 1)
        real, imaginary = spectrum[..., :-1].chunk(2, dim=1)  # (B, K, F) each
        mel = self.filters @ (real * real + imaginary * imaginary)  # (B, M, F)
        log = mel.clamp(min=LOG_FLOOR).log10()
        clamped = torch.maximum(log, log.amax((1, 2), keepdim=True) - DYNAMIC_RANGE)
        return (clamped + 4) / 4
