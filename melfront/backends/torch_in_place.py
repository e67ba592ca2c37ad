"""The front end in torch for inference on a CPU: `numpy_backend.py` in torch, whose head says why.

Clips are computed block by block, in memory that is allocated once.

    # B clips  N n_fft = 400  F frames, G in a block  K frequencies = 201  M mel bins
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..conventions import HOP_LENGTH, N_FFT, Convention
from ..filterbank import mel_filters
from .numpy_backend import (
    N_BANDS,
    Workspace,
    blocks,
    frames_heard,
    heard_by,
    least_feature,
    of_natural_log,
    workspace_of_this_thread,
)
from .torch_constants import made_once

BLOCK = 1500  # frames: fewer leave torch's overhead in sight, more leave the cache
N_WIDE_BANDS = 8  # 16 of 128 filters each, the width that MKL multiplies fastest


@torch.no_grad()
def features_in_place(
    clips: list[Tensor], length: int, n_mels: int, convention: Convention
) -> Tensor:
    """Clips on the CPU to features (B, M, F)."""
    dtype = torch.float64 if convention.precision == "float64" else clips[0].dtype
    mel_filters(n_mels)  # raises for a number of bins that cannot be
    shape = (len(clips), n_mels, length // HOP_LENGTH)
    # NumPy asks Linux for large pages where an array is large: an hour takes a tenth less time.
    features = torch.from_numpy(np.empty(shape, str(dtype).removeprefix("torch.")))  # (B, M, F)
    with workspace_of_this_thread() as workspace:
        loudest = [
            before_clamp(clip, length, convention, out, workspace)
            for clip, out in zip(clips, features, strict=True)
        ]
    if convention.max_scope == "batch":
        loudest = [max(loudest)] * len(clips)
    for clip, top, out in zip(clips, loudest, features, strict=True):
        # Rounding keeps the order, so the clamp can come after it.
        least = least_feature(convention, top)
        n_heard = frames_heard(len(clip), length, convention)
        out[:, :n_heard].clamp_(min=least)
        out[:, n_heard:] = least
    return features


def before_clamp(
    clip: Tensor, length: int, convention: Convention, out: Tensor, workspace: Workspace
) -> float:
    """As `numpy_backend.before_clamp`: clip (n,), out (M, F).

    Power is not held above the floor: the clamp lifts what the logarithm of 0 is, -inf.
    """
    n_mels, n_frames = out.shape
    total = length + convention.extra_padding
    scale, offset = of_natural_log(convention)
    term = out.new_tensor(offset)
    loudest = -math.inf
    for block in blocks(frames_heard(len(clip), length, convention), BLOCK):
        mel = mel_power(clip, total, n_mels, block, out.dtype, workspace)  # (M, G)
        log = mel.numpy()
        with np.errstate(divide="ignore"):  # as a decorator, NumPy 1.26 keeps one state for all
            np.log(log, out=log)  # on one thread faster than torch's on two
        loudest = max(loudest, float(log.max()))
        n_kept = max(0, n_frames - block.start)
        torch.add(term, mel[:, :n_kept], alpha=scale, out=out[:, block])
    return loudest * scale + offset


def mel_power(
    clip: Tensor, length: int, n_mels: int, block: slice, dtype: torch.dtype, workspace: Workspace
) -> Tensor:
    """The mel power of these frames of a clip (n,), padded to `length`: (M, G), in a workspace."""
    # Several threads share out the frames at every step, so that none reads what another has
    # written. In the product they do that where frames are its rows and bands are wide; one thread
    # is faster with filters as rows, in narrow bands.
    several = torch.get_num_threads() > 1
    n_bands = N_WIDE_BANDS if several else N_BANDS
    window, filters = made_once(n_mels, dtype, clip.device, n_bands)
    x = tensor_in(workspace, "heard", (BLOCK * HOP_LENGTH + N_FFT,), dtype)
    x = heard_by(block, clip, length, x)
    n_frames = block.stop - block.start
    frames = x.unfold(0, N_FFT, HOP_LENGTH)[:n_frames]  # (G, N)
    windowed = tensor_in(workspace, "windowed", (BLOCK, N_FFT), dtype)[:n_frames]  # (G, N)
    mel = tensor_in(workspace, "mel", (n_mels * BLOCK,), dtype)[: n_mels * n_frames]
    mel = mel.view(n_frames, n_mels).mT if several else mel.view(n_mels, n_frames)  # (M, G)
    torch.mul(frames, window, out=windowed)
    parts = torch.view_as_real(torch.fft.rfft(windowed)).flatten(-2)  # (G, 2K)
    parts.mul_(parts)
    parts = parts.mT  # (2K, G)
    for mels, part, weights in filters:
        torch.mm(weights, parts[part], out=mel[mels])
    return mel


def tensor_in(
    workspace: Workspace, purpose: str, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """As `numpy_backend.array_in`."""
    key = purpose, shape, dtype
    if key not in workspace:
        with torch.inference_mode(False):
            workspace[key] = torch.empty(shape, dtype=dtype, device="cpu")
    return workspace[key]
