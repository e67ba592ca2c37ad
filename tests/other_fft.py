"""A stand-in for a GPU: the CPU with a different, also correct, float32 FFT.

Without a GPU, it exposes bounds that only one FFT meets and comparisons across devices.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from melfront.backends import torch_backend
from tests.conftest import STAND_IN

N = 20  # 400 samples are 20 columns of 20: Cooley-Tukey, with factors rounded to float32
real_rfft = torch.fft.rfft
ONE_AT_A_TIME = RLock()  # all threads see the patches


def turns(fraction: np.ndarray) -> Tensor:
    return torch.from_numpy(np.exp(-2j * np.pi * fraction).astype(np.complex64))


PRODUCTS = np.outer(np.arange(N), np.arange(N))
DFT, TWIDDLES = turns(PRODUCTS / N), turns(PRODUCTS / N**2)  # (20, 20) each


def rfft(x: Tensor) -> Tensor:
    """(..., 400) float32 -> (..., 201) complex64, in sums of 20: less accurate than cuFFT."""
    if x.dtype != torch.float32:
        return real_rfft(x)
    columns = x.unflatten(-1, (N, N)).to(torch.complex64)  # sample 20 i + j
    spectrum = (DFT @ columns * TWIDDLES) @ DFT  # frequency k + 20 l
    return spectrum.mT.flatten(-2)[..., : N**2 // 2 + 1]


def stft(
    x: Tensor, n_fft: int, hop_length: int, window: Tensor, return_complex: bool = True
) -> Tensor:
    """torch.stft as transformers and openai-whisper call it: (..., L) -> (..., 201, F)."""
    clips = torch.atleast_2d(x)
    padded = torch.nn.functional.pad(clips, (n_fft // 2, n_fft // 2), mode="reflect")
    spectrum = rfft(padded.unfold(-1, n_fft, hop_length) * window).mT
    return spectrum.view(*x.shape[:-1], *spectrum.shape[1:])


@contextmanager
def device_of(backend: str) -> Iterator[str]:
    """The device on which another library must run to be compared with this backend.

    With the stand-in, the CPU takes a GPU's path through the front end, with this FFT, inside the
    `with` block.
    """
    if backend != STAND_IN:
        yield backend if backend not in ("numba", "numpy") else "cpu"
        return
    with (
        ONE_AT_A_TIME,
        patch.object(torch.fft, "rfft", rfft),
        patch.object(torch, "stft", stft),
        patch.object(torch_backend, "on_cpu", lambda device: False),
    ):
        yield "cpu"
