"""The front end in float32 NumPy, fast: the same numbers as `oracle.py` to rounding, no torch.

What is done differently, and why:

- Frames that hear nothing but padding are not computed: silence is known to give -10.
- |X|^2 is the sum of two squares, so the real and the imaginary parts are squared where they lie,
  side by side, and each filter weight is given twice. No pass adds them up.
- A filter is zero nearly everywhere (394 of 25,728 weights are not), and neighbours overlap: the
  product is done in bands of neighbouring filters, each over the frequencies that they cover.
- The Fourier transform alone is done in float64 and rounded after it, as transformers' NumPy path
  does: a float32 one spreads its rounding over all frequencies, and next to a loud tone that
  moves a feature by 1e-4. With blocks of this size it takes no more time.
- Frames are taken in blocks that stay in the cache, so that an hour needs no more than 30 s does.

    # L samples  N n_fft = 400  F frames, H that hear the clip, G in a block
    # K frequencies = 201  M mel bins
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import oracle
from .audio import Clips
from .conventions import HOP_LENGTH, N_FFT, TRANSFORMERS, Convention

BLOCK = 128  # frames: 128 x 402 doubles are 0.4 MB
N_BANDS = 8


class Band(NamedTuple):
    """Neighbouring filters, and the stretch of real and imaginary parts that they cover."""

    mels: slice
    parts: slice
    weights: NDArray[Any]  # (mels, parts), C order


@lru_cache(maxsize=16)
def bands(n_mels: int, dtype: str) -> list[Band]:
    """The filter bank in at most N_BANDS bands, which hold every weight that is not zero."""
    doubled = np.repeat(oracle.filters(TRANSFORMERS, n_mels), 2, axis=1).astype(dtype)  # (M, 2K)
    result = []
    for mels in np.array_split(np.arange(n_mels), min(N_BANDS, n_mels)):
        rows = doubled[mels[0] : mels[-1] + 1]
        used = np.flatnonzero(rows.any(axis=0))
        # More bins than the spectrum can tell apart leave filters with no frequency in them.
        parts = slice(used[0], used[-1] + 1) if len(used) else slice(0, 1)
        result.append(Band(slice(mels[0], mels[-1] + 1), parts, rows[:, parts].copy()))
    return result


@lru_cache(maxsize=1)
def window() -> NDArray[np.float64]:
    return oracle.window(TRANSFORMERS)


class Layout(NamedTuple):
    """How many frames a clip of n samples, padded to L, has, and how many of them hear it."""

    n_frames: int
    n_heard: int

    @classmethod
    def of(cls, n: int, length: int) -> Layout:
        n_frames = length // HOP_LENGTH
        # Frame f starts at 160 f - 200: it hears the clip while that is below n.
        return cls(n_frames, min(n_frames, -(-(n + N_FFT // 2) // HOP_LENGTH)))


def padded(clip: NDArray[Any], length: int, n_heard: int, dtype: str) -> NDArray[Any]:
    """`oracle.pad` of the clip, as far as the frames that hear it reach: (n,) -> (P,)."""
    half = N_FFT // 2
    reach = (n_heard - 1) * HOP_LENGTH + half  # first sample that no such frame hears
    x = np.zeros(half + max(reach, half + 1), dtype=dtype)
    clip = clip[: len(x) - half]
    x[half : half + len(clip)] = clip
    x[:half] = x[2 * half : half : -1]
    beyond = reach - length  # the right edge is heard only if the clip fills the whole length
    if beyond > 0:
        edge = half + length
        x[edge : edge + beyond] = x[edge - 2 : edge - 2 - beyond : -1]
    return x


def log_power(clip: NDArray[Any], length: int, n_mels: int, dtype: str) -> NDArray[Any]:
    """One clip (n,), padded to `length`, to the natural logarithm of its mel power, (M, F)."""
    n_frames, n_heard = Layout.of(len(clip), length)
    x = padded(clip, length, n_heard, dtype)
    frames = np.lib.stride_tricks.sliding_window_view(x, N_FFT)[::HOP_LENGTH][:n_heard]  # (H, N)
    filters = bands(n_mels, dtype)
    mel = np.empty((n_mels, n_frames), dtype=dtype)
    for first in range(0, n_heard, BLOCK):
        block = slice(first, min(first + BLOCK, n_heard))
        spectrum = np.fft.rfft(frames[block] * window())  # (G, K)
        parts = spectrum.view(np.float64).astype(dtype, copy=False)  # (G, 2K)
        np.multiply(parts, parts, out=parts)
        for band in filters:
            np.matmul(band.weights, parts[:, band.parts].T, out=mel[band.mels, block])
    heard = mel[:, :n_heard]
    np.maximum(heard, TRANSFORMERS.log_floor, out=heard)
    np.log(heard, out=heard)
    mel[:, n_heard:] = np.log(TRANSFORMERS.log_floor)
    return mel


def log_mel(clips: Clips, length: int, n_mels: int, convention: Convention) -> NDArray[np.float32]:
    """Checked clips of up to `length` samples to features, (M, F) or (B, M, F), float32.

    `convention` is one of the named ones. Reproduces `oracle.run`.
    """
    dtype = convention.precision
    total = length + convention.extra_padding
    n_frames = length // HOP_LENGTH
    logs = [log_power(clip, total, n_mels, dtype) for clip in clips.arrays]
    loudest = [mel.max() for mel in logs]
    if convention.max_scope == "batch":
        loudest = [max(loudest)] * len(logs)
    features = np.empty((len(logs), n_mels, n_frames), dtype=np.float32)
    to_features = 1 / (np.log(10) * convention.divisor)  # of a natural logarithm
    quietest = convention.dynamic_range * np.log(10)
    for out, mel, top, clip in zip(features, logs, loudest, clips.arrays, strict=True):
        mel = mel[:, :n_frames]
        np.maximum(mel, top - quietest, out=mel)
        np.multiply(mel, to_features, out=out)
        out += convention.offset / convention.divisor
        if convention.fill is not None:
            out[:, len(clip) // HOP_LENGTH :] = convention.fill
    return features if clips.batched else features[0]
