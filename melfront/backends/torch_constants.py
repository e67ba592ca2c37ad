"""The window and the filter bank as tensors, made once per device and dtype."""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
from torch import Tensor

from ..audio import is_traced
from ..conventions import N_FFT
from ..filterbank import mel_filters


@lru_cache(maxsize=16)
def made_once(n_mels: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    # What is made in inference mode could not be used outside, and torch.jit.trace need not warn
    # that these are constants. (mypy: TracerWarning is public, but not in torch.jit's __all__.)
    with torch.inference_mode(False), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]  # see above
        # torch's float32 window is 2e-7 off, as much as the FFT's rounding; next to a loud tone
        # that moves a feature by 2e-4. It is transformers' window, so we move along with it.
        window = torch.hann_window(N_FFT, dtype=dtype, device=device)  # (N,)
        bank = torch.from_numpy(mel_filters(n_mels).copy()).to(device, dtype)  # (M, K)
    return window, bank


def constant(n_mels: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    return made_once(n_mels, dtype, device)


# `torch.compiler.assume_constant_result` does this, and takes a second to be imported.
vars(constant)["_dynamo_marked_constant"] = True


def constants(x: Tensor, n_mels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Window and filter bank, made once per device and kept there.

    Under a trace they are made anew: what is made there is a part of it.
    """
    real = torch.compiler.is_dynamo_compiling() or not is_traced(x)
    make = constant if real else made_once.__wrapped__
    return make(n_mels, dtype, x.device)
