"""The front end in NumPy: the same numbers as `oracle.py`, rounded to float32.

It serves where numba is not installed or not wanted, and float64 tensors. How it differs from the
oracle, and why:

- Frames that hold only padding are not computed: silence is known to give -10.
- Of 25,728 filter weights 394 are not zero, and those of neighbouring filters overlap. The product
  runs over bands of neighbouring filters, each only over the frequencies that they cover.
- Frames are cut out of the clip and computed in blocks that fit the cache. Apart from its features,
  an hour of audio needs no more memory than 30 s.

    # n samples of a clip  L after padding  F frames, of which H hear the clip, G in a block
    # K frequencies = 201  M mel bins  B clips
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import oracle
from ..audio import Clips
from ..conventions import HOP_LENGTH, N_FFT, Convention
from ..filterbank import mel_filters

BLOCK = 256  # frames: 256 x 201 complex numbers are 0.8 MB


def frames_heard(n: int, length: int, convention: Convention) -> int:
    """How many frames of a clip of n samples, padded to L, must be computed."""
    # Frame f starts at 160 f - 200: it hears the clip while that is below n.
    hear_it = -(-(n + N_FFT // 2) // HOP_LENGTH)
    if convention.max_frames == "clip":  # later frames do not count, and are filled in the end
        hear_it = min(hear_it, max(1, (n + convention.extra_padding) // HOP_LENGTH))
    return min(hear_it, (length + convention.extra_padding) // HOP_LENGTH)


def of_natural_log(convention: Convention) -> tuple[float, float]:
    """The factor and the term that turn ln(power) into a feature."""
    return 1 / (math.log(10) * convention.divisor), convention.offset / convention.divisor


def least_feature(convention: Convention, loudest: float) -> float:
    """The least value of a feature: 8 in log10 below the loudest mel power, or silence."""
    log10 = math.log10(max(loudest, convention.log_floor)) - convention.dynamic_range
    log10 = max(log10, math.log10(convention.log_floor))
    return (log10 + convention.offset) / convention.divisor


@lru_cache(maxsize=16)
def bands(n_mels: int) -> list[tuple[slice, slice, NDArray[np.float64]]]:
    """Neighbouring filters, the frequencies that they cover, and their weights there."""
    bank = mel_filters(n_mels)  # (M, K)
    edges = np.unique(np.linspace(0, n_mels, 17, dtype=int))  # 16 bands, or as many as filters
    result = []
    for first, last in itertools.pairwise(edges):
        # With very many bins some filters are narrower than a frequency bin, and empty.
        used = [*np.flatnonzero(bank[first:last].any(axis=0)), 0]
        covered = slice(min(used[:-1], default=0), max(used) + 1)
        result.append((slice(first, last), covered, bank[first:last, covered]))
    return result


def heard_by(block: slice, clip: NDArray[Any], length: int) -> NDArray[np.float64]:
    """The samples of `oracle.pad(clip, length)` that a block of frames covers: (n,) -> (P,)."""
    half = N_FFT // 2
    start, stop = block.start * HOP_LENGTH - half, (block.stop - 1) * HOP_LENGTH + half
    # The left edge mirrors sample 200, which the first frame itself does not reach.
    x = np.zeros(max(stop, half + 1) - start)
    inside = clip[max(start, 0) : start + len(x)]
    x[max(-start, 0) :][: len(inside)] = inside
    if start < 0:
        x[:half] = x[2 * half : half : -1]
    if stop > length:  # only if the clip fills the whole length
        edge, beyond = length - start, stop - length
        x[edge : edge + beyond] = x[edge - 1 - beyond : edge - 1][::-1]
    return x[: stop - start]


def mel_of_block(block: slice, clip: NDArray[Any], length: int, n_mels: int) -> NDArray[np.float64]:
    """The mel power of a block of frames of a clip (n,) padded to L: (M, G)."""
    x = heard_by(block, clip, length)
    frames = np.lib.stride_tricks.sliding_window_view(x, N_FFT)[::HOP_LENGTH]  # (G, N)
    power = oracle.power(np.fft.rfft(frames * oracle.window()))  # (G, K)
    mel = np.empty((n_mels, len(power)))  # (M, G)
    for mels, frequencies, weights in bands(n_mels):
        np.matmul(weights, power[:, frequencies].T, out=mel[mels])
    return mel


def before_clamp(
    clip: NDArray[Any], length: int, convention: Convention, out: NDArray[Any]
) -> float:
    """Write the features of a clip (n,) to out (M, F), before the clamp; return the largest power.

    Frames that hold only padding are left untouched in `out`.
    """
    n_mels, n_frames = out.shape
    n_heard = frames_heard(len(clip), length, convention)
    total = length + convention.extra_padding
    scale, offset = of_natural_log(convention)
    loudest = 0.0
    for first in range(0, n_heard, BLOCK):
        block = slice(first, min(first + BLOCK, n_heard))
        mel = mel_of_block(block, clip, total, n_mels)
        loudest = max(loudest, float(mel.max()))
        log = np.log(np.maximum(mel, convention.log_floor))  # three times as fast as log10
        # Frames of the extra padding count for the maximum, but are not part of the result.
        out[:, block] = (log * scale + offset)[:, : max(0, n_frames - first)]
    return loudest


def log_mel(
    clips: Clips,
    length: int,
    n_mels: int,
    convention: Convention,
    check_range: bool,
    dtype: type[np.floating[Any]] = np.float32,
) -> NDArray[Any]:
    """Clips of up to `length` samples to features of this dtype, (M, F) or (B, M, F).

    `convention` is one of the named ones. Raises AudioError as `Clips.check` does, ValueError for
    fewer than one bin. Reproduces `variants.run`.
    """
    clips.check(check_range)
    clips = clips.cut(length)
    shape = (len(clips.arrays), n_mels, length // HOP_LENGTH)
    mel_filters(n_mels)  # raises ValueError before there is an array of such a shape
    features = np.empty(shape, dtype)  # (B, M, F)
    loudest = [
        before_clamp(clip, length, convention, out)
        for clip, out in zip(clips.arrays, features, strict=True)
    ]
    if convention.max_scope == "batch":
        loudest = [max(loudest)] * len(loudest)
    for clip, top, out in zip(clips.arrays, loudest, features, strict=True):
        # Rounding keeps the order, so the clamp can come after it.
        least = dtype(least_feature(convention, top))
        n_heard = frames_heard(len(clip), length, convention)
        np.maximum(out[:, :n_heard], least, out=out[:, :n_heard])
        out[:, n_heard:] = least
        if convention.fill is not None:
            out[:, len(clip) // HOP_LENGTH :] = convention.fill
    return features if clips.batched else features[0]


in_float64 = partial(log_mel, dtype=np.float64)
