import torch
from torch import Tensor


def stft(frames: Tensor, window: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(frames * window)  # (..., F, K)
    return spectrum.real.square() + spectrum.imag.square()
