"""The front end in NumPy, fast: the same numbers as `oracle.py`, rounded to float32. No torch.

How it differs from the oracle, and why:

- Frames that hold only padding are not computed: silence is known to give -10.
- |X|^2 is a sum of two squares. The real and imaginary parts, interleaved in memory, are squared in
  place, and each filter weight is stored twice, so the matrix product does the addition.
- Of 25,728 filter weights 394 are not zero, and those of neighbouring filters overlap. The product
  runs over bands of neighbouring filters, each only over the frequencies that they cover.
- Frames are cut out of the clip and computed in blocks that fit the cache. Apart from its features,
  an hour of audio needs no more memory than 30 s.
- Everything before the features is float64. NumPy's FFT is no faster in float32, and its rounding
  would spread over all frequencies: next to a loud tone that moves a feature by 1e-4.
- np.maximum gets two arrays, row by row. For an array and a scalar NumPy has no vector
  instructions, which takes four times as long.
- The features become float32 before the transpose, which then moves half the memory.

    # L samples  N n_fft = 400  F frames, of which H hear the clip, G in a block
    # K frequencies = 201  M mel bins
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import oracle
from ..audio import Clips, is_tensor
from ..conventions import HOP_LENGTH, N_FFT, Convention
from ..filterbank import mel_filters

BLOCK = 256  # frames: 256 x 402 doubles are 0.8 MB
N_BANDS = 16
# Neighbouring filters, the real and imaginary parts that they cover, their weights (parts, mels).
Band = tuple[slice, slice, NDArray[np.float64]]


@lru_cache(maxsize=16)
def bands(n_mels: int, n_bands: int) -> list[Band]:
    """The filter bank in at most n_bands bands, with every weight that is not zero."""
    doubled = np.repeat(mel_filters(n_mels), 2, axis=1)  # (M, 2K)
    result = []
    for mels in np.array_split(np.arange(n_mels), min(n_bands, n_mels)):
        rows = doubled[mels[0] : mels[-1] + 1]
        used = np.flatnonzero(rows.any(axis=0))
        # With very many bins some filters are narrower than a frequency bin, and empty.
        parts = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
        here = slice(int(mels[0]), int(mels[-1]) + 1)
        result.append((here, parts, rows[:, parts].T.copy()))
    return result


@lru_cache(maxsize=1)
def windows() -> NDArray[np.float64]:
    """The window repeated for every frame of a block: NumPy is faster than with a broadcast."""
    return np.tile(oracle.window(), (BLOCK, 1))  # (G, N)


def frames_heard(n: int, length: int, convention: Convention) -> int:
    """How many frames of a clip of n samples, padded to L, must be computed."""
    # Frame f starts at 160 f - 200: it hears the clip while that is below n.
    hear_it = -(-(n + N_FFT // 2) // HOP_LENGTH)
    if convention.max_frames == "clip":  # later frames do not count, and are filled in the end
        hear_it = min(hear_it, max(1, (n + convention.extra_padding) // HOP_LENGTH))
    return min(hear_it, (length + convention.extra_padding) // HOP_LENGTH)


def blocks(n_frames: int, size: int) -> Iterator[slice]:
    """The frames to compute, `size` at a time."""
    for first in range(0, n_frames, size):
        yield slice(first, min(first + size, n_frames))


Workspace = dict[Any, Any]

_of_this_thread = threading.local()


@contextmanager
def workspace_of_this_thread() -> Iterator[Workspace]:
    """Scratch memory that every call of this thread uses again.

    The system maps new memory page by page, which takes longer than the work done in it. A call
    takes the workspace away while it runs, so a nested call, from a signal handler or `__del__`,
    makes its own. After an exception it is not put back.
    """
    spare: dict[str, Workspace] = vars(_of_this_thread)
    workspace = spare.pop("workspace", {})
    yield workspace
    spare["workspace"] = workspace


def array_in(
    workspace: Workspace, purpose: str, shape: tuple[int, ...], dtype: str
) -> NDArray[Any]:
    """The workspace's array for that purpose, with whatever the last call left in it."""
    key = purpose, shape, dtype
    if key not in workspace:
        workspace[key] = np.empty(shape, dtype)
    return workspace[key]


def heard_by(block: slice, clip: Any, length: int, x: Any) -> Any:
    """The samples of `oracle.pad(clip, length)` that a block of frames covers: (n,) -> (P,).

    Arrays or tensors. Inside the clip this is a view of it; at an edge they are written to x.
    """
    half = N_FFT // 2
    start = block.start * HOP_LENGTH - half
    stop = (block.stop - 1) * HOP_LENGTH + half
    if start >= 0 and stop <= len(clip) and clip.dtype == x.dtype:
        return clip[start:stop]
    # The left edge mirrors sample 200, which the first frame itself does not reach.
    x = x[: max(stop, half + 1) - start]
    first, last = max(start, 0), min(start + len(x), len(clip))
    x[first - start : last - start] = clip[first:last]
    x[last - start :] = 0
    if start < 0:
        x[:half] = flip(x[half + 1 : 2 * half + 1])
    beyond = stop - length  # positive only if the clip fills the whole length
    if beyond > 0:
        edge = length - start
        x[edge : edge + beyond] = flip(x[edge - 1 - beyond : edge - 1])
    return x


def flip(x: Any) -> Any:
    return x.flip(0) if is_tensor(x) else x[::-1]


def mel_power(
    clip: NDArray[Any], length: int, n_mels: int, block: slice, workspace: Workspace
) -> NDArray[np.float64]:
    """The mel power of a block of frames of a clip (n,) padded to `length`: (G, M)."""
    x = array_in(workspace, "heard", (BLOCK * HOP_LENGTH + N_FFT,), "float64")
    x = heard_by(block, clip, length, x)
    n_frames, step = block.stop - block.start, HOP_LENGTH * x.itemsize
    frames = np.lib.stride_tricks.as_strided(x, (n_frames, N_FFT), (step, x.itemsize))  # (G, N)
    windowed = array_in(workspace, "windowed", (BLOCK, N_FFT), "float64")[:n_frames]  # (G, N)
    spectrum = array_in(workspace, "spectrum", (BLOCK, N_FFT // 2 + 1), "complex128")
    spectrum = spectrum[:n_frames]  # (G, K)
    mel = array_in(workspace, "mel", (BLOCK, n_mels), "float64")[:n_frames]  # (G, M)
    np.multiply(frames, windows()[:n_frames], out=windowed)
    np.fft.rfft(windowed, out=spectrum)
    parts = spectrum.view(np.float64)  # (G, 2K)
    np.multiply(parts, parts, out=parts)
    for mels, part, weights in bands(n_mels, N_BANDS):
        np.matmul(parts[:, part], weights, out=mel[:, mels])
    return mel


def before_clamp(
    clip: NDArray[Any],
    length: int,
    convention: Convention,
    out: NDArray[np.float32],
    workspace: Workspace,
) -> float:
    """Write the features of a clip (n,) to out (M, F), before the clamp; return the loudest.

    Frames that hold only padding are left untouched in `out`.
    """
    n_mels, n_frames = out.shape
    total = length + convention.extra_padding
    scale, offset = of_natural_log(convention)
    floor = np.full(n_mels, convention.log_floor)
    loudest = -math.inf
    for block in blocks(frames_heard(len(clip), length, convention), BLOCK):
        mel = mel_power(clip, total, n_mels, block, workspace)  # (G, M)
        np.maximum(mel, floor, out=mel)
        np.log(mel, out=mel)  # three times as fast as log10
        mel *= scale
        mel += offset
        loudest = max(loudest, mel.max())
        features = array_in(workspace, "features", (BLOCK, n_mels), "float32")[: len(mel)]  # (G, M)
        features[:] = mel
        # Frames of the extra padding count for the maximum, but are not part of the result.
        out[:, block] = features[: max(0, n_frames - block.start)].T
    return float(loudest)


def of_natural_log(convention: Convention) -> tuple[float, float]:
    """The factor and the term that turn ln(power) into a feature."""
    return 1 / (math.log(10) * convention.divisor), convention.offset / convention.divisor


def least_feature(convention: Convention, loudest: float) -> float:
    """The least value of a feature: 8 below the loudest in log10, but not below silence."""
    scale, offset = of_natural_log(convention)
    silence = math.log(convention.log_floor) * scale + offset
    return max(silence, loudest - convention.dynamic_range / convention.divisor)


def log_mel(clips: Clips, length: int, n_mels: int, convention: Convention) -> NDArray[np.float32]:
    """Checked clips of up to `length` samples to features, (M, F) or (B, M, F), float32.

    `convention` is one of the named ones. Reproduces `variants.run`.
    """
    bands(n_mels, N_BANDS)  # raises ValueError for fewer than one bin
    shape = (len(clips.arrays), n_mels, length // HOP_LENGTH)
    features = np.empty(shape, dtype=np.float32)  # (B, M, F)
    with workspace_of_this_thread() as workspace:
        loudest = [
            before_clamp(clip, length, convention, out, workspace)
            for clip, out in zip(clips.arrays, features, strict=True)
        ]
    if convention.max_scope == "batch":
        loudest = [max(loudest)] * len(loudest)
    for clip, top, out in zip(clips.arrays, loudest, features, strict=True):
        # Rounding keeps the order, so the clamp can come after it.
        least = least_feature(convention, top)
        n_heard = frames_heard(len(clip), length, convention)
        heard = out[:, :n_heard]
        np.maximum(heard, np.full(heard.shape[-1], least, dtype=np.float32), out=heard)
        out[:, n_heard:] = least
        if convention.fill is not None:
            out[:, len(clip) // HOP_LENGTH :] = convention.fill
    return features if clips.batched else features[0]
