import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_hz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mels < 15, 200 / 3 * mels, 1000 * 6.4 ** ((mels - 15) / 27))


def filter_bank(n_mels: int) -> Tensor:
    """Triangles on Slaney's mel scale, each of area 1: (n_mels, 201)."""
    top = 15 + 27 * np.log(8) / np.log(6.4)  # 8000 Hz
    edges = to_hz(np.linspace(0, top, n_mels + 2))
    hz = np.arange(201) * 40.0
    rising = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return torch.from_numpy(triangles * (2 / (edges[2:] - edges[:-2]))[:, None])


def log_mel(audio: Tensor, n_mels: int) -> Tensor:
    window = torch.hann_window(400, device=audio.device)
    audio = torch.nn.functional.pad(audio, (0, 480_000 - audio.shape[-1]))  # 30 s
    spectrum = torch.stft(audio, 400, 160, window=window, return_complex=True)[..., :-1]
    mel = filter_bank(n_mels).to(audio) @ spectrum.abs().square()  # (..., n_mels, 3000)
    log = mel.clamp(min=1e-10).log10()
    return (torch.maximum(log, log.amax(dim=(-2, -1), keepdim=True) - 8) + 4) / 4
