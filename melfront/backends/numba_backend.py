"""The front end for a CPU, compiled by numba: float64 inside, float32 features.

What makes it fast, besides what `kernel.py` says of its Fourier transform:

- What a tile of 64 frames needs stays in the cache: it is read from the clip and written to the
  features once. An hour needs no more memory than 30 s.
- Frames that hold only padding are not computed, and only weights that are not zero are multiplied.
- Whether the clip holds NaN, infinity or unscaled PCM is found out in the same pass.
- The logarithm is float32: exponent and polynomial. The features are rounded to float32 anyway.
- One clip takes one thread, a batch as many as there are cores. The threads of numba and of OpenMP
  wait busily: on a machine with other work they cost many times what they save.

    # L samples  F frames  M mel bins  B clips
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from .. import oracle
from ..audio import Clips
from ..audio.waveform import MAX_AMPLITUDE
from ..conventions import HOP_LENGTH, N_FFT, Convention
from ..filterbank import mel_filters
from . import numpy_backend
from .kernel import COLUMNS, FLOATS, GROUP, LANES, ROW, before_clamp, clamp
from .numpy_backend import frames_heard, least_feature

FRAMES_OF_A_THREAD = 1000  # a third of a millisecond: starting a thread takes a third of that
LOUDEST = 1e15  # |X|^2 of louder samples could exceed float32

# --- tables and memory ----------------------------------------------------------------------------


def sample_number(i: int) -> int:
    """Which sample of a frame `kernel.power_of_dft400` takes i-th."""
    return (25 * (i // 25) + 16 * (i % 25)) % N_FFT


def row_of_frequency(k: int) -> int:
    """The row of q in which `kernel.power_of_dft400` leaves frequency k."""
    k = k if k % 25 in COLUMNS else 400 - k
    s, t = k % 4, k % 16 // 4
    return GROUP // LANES * (4 * s + t) + 2 * COLUMNS.index(k % 25)


@lru_cache(maxsize=16)
def tables(n_mels: int) -> tuple[NDArray[Any], ...]:
    """What the kernel reads beside the clip.

    In the order of `sample_number`: a sample's place in the turned clip, and the window there.
    For each mel bin, where its weights begin. The row of q that each weight is for, and the weight,
    an even number of them for each bin: a weight of 0 fills it up.
    """
    samples = np.array([sample_number(i) for i in range(N_FFT)])
    places = samples % HOP_LENGTH * ROW + samples // HOP_LENGTH
    starts, rows, weights = [0], [], []
    for bank in mel_filters(n_mels):  # raises ValueError for fewer than one bin
        used = np.flatnonzero(bank).tolist()
        used += [0] * (len(used) % 2 or 2 * (not used))
        rows += [row_of_frequency(k) for k in used]
        weights += [bank[k] for k in used]
        starts.append(len(rows))
    integers = [np.array(x, dtype=np.intp) for x in (places, starts, rows)]
    return integers[0], oracle.window()[samples], *integers[1:], np.array(weights)


def scratch(dtype: np.dtype[Any]) -> tuple[NDArray[Any], ...]:
    """Memory in which the kernel keeps LANES frames of a clip of this dtype, for one call."""
    n = ROW * HOP_LENGTH
    return np.empty(n, dtype), np.zeros(n, dtype), np.zeros(LANES, np.int32)


def native(clip: NDArray[Any]) -> NDArray[Any]:
    """The clip as compiled code takes it, copied only if it must be."""
    flags = clip.flags
    if flags.c_contiguous and flags.aligned and clip.dtype.isnative:
        return clip
    return np.require(clip, clip.dtype.newbyteorder("="), ["C", "A"])


# --- compiled -------------------------------------------------------------------------------------

Kernels = tuple[Callable[..., tuple[float, float]], Callable[..., None]]


def signatures(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """The types of `before_clamp` for clips of this dtype, and of `clamp`."""

    def read(of: Any) -> Any:
        return types.Array(of, 1, "C", readonly=True)

    integers, floats = read(types.intp), read(types.float64)
    constants = (integers, floats, integers, integers, floats)  # of `tables`
    memory = [numba.typeof(array) for array in scratch(dtype)]
    clip, out = read(numba.from_dtype(dtype)), types.Array(types.float32, 2, "C")
    first = (clip, types.intp, types.intp, out, *constants, *memory)
    return first, (out, types.intp, types.float32)


def compiled_by(cache: bool, dtype: np.dtype[Any]) -> Kernels:
    kernels = []
    for function, signature in zip((before_clamp, clamp), signatures(dtype), strict=True):
        kernel = numba.njit(cache=cache, no_cfunc_wrapper=True, **FLOATS)(function)
        kernel.compile(signature)
        kernel.disable_compile()
        kernels.append(kernel)
    return tuple(kernels)


@contextmanager
def said_if_it_takes_long() -> Iterator[None]:
    """On a terminal, say after a second what the user is waiting for."""
    said = threading.Timer(1.0, print, ["melfront: compiling the front end for this CPU, once"])
    said.kwargs = {"file": sys.stderr}
    said.daemon = True
    if sys.stderr is not None and sys.stderr.isatty():
        said.start()
    try:
        yield
    finally:
        said.cancel()


@lru_cache
def kernels(dtype: np.dtype[Any]) -> Kernels:
    """Compiled, or read from numba's cache: beside this file, or else in the user's cache folder.

    Where neither can be written, or what lies there cannot be read, every process compiles.
    """
    with said_if_it_takes_long():
        try:
            return compiled_by(True, dtype)
        except Exception:  # whatever a damaged file in the cache makes numba and pickle raise
            return compiled_by(False, dtype)


# --- called ---------------------------------------------------------------------------------------


def most_threads() -> int:
    """The number of threads that numba may use, or torch if it may use fewer."""
    torch = sys.modules.get("torch")  # which has 1 in the workers of a DataLoader
    numbas: int = numba.config.NUMBA_NUM_THREADS
    return numbas if torch is None else min(numbas, torch.get_num_threads())


def for_each_clip(work: Callable[[int], Any], n_frames: list[int]) -> list[Any]:
    """work(0), work(1), ... for each clip, on several threads where that pays."""
    clips = range(len(n_frames))
    worth = min(len(clips), sum(n_frames) // FRAMES_OF_A_THREAD)
    if worth < 2 or (n_threads := min(worth, most_threads())) < 2:
        return [work(i) for i in clips]
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(work, clips))


def log_mel(
    clips: Clips, length: int, n_mels: int, convention: Convention, check_range: bool
) -> NDArray[np.float32]:
    """Clips of up to `length` samples to features, (M, F) or (B, M, F), float32.

    `convention` is one of the named ones. Raises AudioError as `Clips.check` does. Reproduces
    `variants.run`.
    """
    constants = tables(n_mels)
    if not all(0 < len(clip) <= length for clip in clips.arrays):
        clips.check(check_range)  # the kernel does not see what is cut
    arrays = [native(clip[:length]) for clip in clips.arrays]
    run = [kernels(clip.dtype) for clip in arrays]
    heard = [frames_heard(len(clip), length, convention) for clip in arrays]
    total = length + convention.extra_padding
    features = np.empty((len(arrays), n_mels, length // HOP_LENGTH), dtype=np.float32)  # (B, M, F)

    def finish(i: int, loudest: float) -> None:
        _, clamp = run[i]
        clamp(features[i], heard[i], np.float32(least_feature(convention, loudest)))
        if convention.fill is not None:
            features[i, :, len(arrays[i]) // HOP_LENGTH :] = convention.fill

    def compute(i: int) -> tuple[float, float]:
        before_clamp, _ = run[i]
        memory = scratch(arrays[i].dtype)
        loudest, peak = before_clamp(arrays[i], total, heard[i], features[i], *constants, *memory)
        if convention.max_scope == "item":  # now, while the features are in the cache
            finish(i, loudest)
        return loudest, peak

    loudest, peaks = zip(*for_each_clip(compute, heard), strict=True)
    most = MAX_AMPLITUDE if check_range else LOUDEST
    if not all(peak <= most for peak in peaks):  # NaN too; NumPy's backend says what is wrong
        return numpy_backend.log_mel(clips, length, n_mels, convention, check_range)
    if convention.max_scope == "batch":
        for_each_clip(lambda i: finish(i, max(loudest)), heard)
    return features if clips.batched else features[0]
