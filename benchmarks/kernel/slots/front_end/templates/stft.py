import torch
from torch import Tensor


# With a function `prepare` of the weights, called once per set: stft(frames, prepared)
def stft(frames: Tensor, window: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(frames * window)  # (..., F, K)
    return spectrum.real.square() + spectrum.imag.square()
