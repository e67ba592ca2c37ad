"""The slots of the front end, and the window, filters and frames that they share.

# B batch  L samples  F frames  N n_fft = 400  M mel bins
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from melfront import variants
from melfront.conventions import HOP_LENGTH, N_FFT, TRANSFORMERS


@lru_cache(maxsize=4)  # the same tensors each time: a kernel prepares them once
def constants(n_mels: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """The window (N,) and the filters (M, K), float32."""
    window, bank = variants.window(TRANSFORMERS), variants.filters(TRANSFORMERS, n_mels)
    kind: Any = {"dtype": torch.float32, "device": device}
    return torch.tensor(window, **kind), torch.tensor(bank, **kind)


def framed(audio: Tensor) -> Tensor:
    """The frames of audio reflected at its edges: (..., L) -> (..., F, N), a view with overlaps."""
    half = N_FFT // 2
    start, end = audio[..., 1 : half + 1].flip(-1), audio[..., -half - 1 : -1].flip(-1)
    return torch.cat([start, audio, end], dim=-1).unfold(-1, N_FFT, HOP_LENGTH)[..., :-1, :]
