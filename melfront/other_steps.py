"""Steps that no right front end takes: what `variants` calls where a mistake asks for it.

# L samples  N n_fft  F frames  K frequencies  M mel bins
# B clips: one more axis in front, where the comments say `...`
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .conventions import SAMPLE_RATE, Convention
from .filterbank import hz_to_mel, mel_filters, mel_to_hz

Array = NDArray[Any]


# --- reading --------------------------------------------------------------------------------------


def read_wrongly(clip: Array, how: str) -> Array:
    """The clip (n,), in float64, from the bytes of a 16-bit WAV file that are taken wrongly."""
    samples = np.clip(np.round(clip * 32768), -32768, 32767).astype("<i2")
    if how == "header":  # its 44 bytes are 22 samples more
        samples = np.concatenate([np.frombuffer(header(len(clip)), "<i2"), samples])
    elif how == "big-endian":
        samples = samples.byteswap()
    elif how == "unsigned":
        return samples.view("<u2") / 32768 - 1
    else:  # "8-bit"
        return np.round(samples / 256) / 128
    return samples / 32768


def header(n_samples: int) -> bytes:
    """The 44 bytes before the samples of a mono 16-bit WAV file at 16 kHz."""
    size = 2 * n_samples
    form = (16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", *form, b"data", size
    )


# --- chunks ---------------------------------------------------------------------------------------


def in_chunks(padded: Array, convention: Convention, cut: Callable[[Array], Array]) -> Array:
    """Frames of each chunk alone, which is padded at its own ends: (..., L + N) -> (..., F, N)."""
    left, n_fft = -convention.start, convention.n_fft
    x = padded[..., left : padded.shape[-1] - (n_fft - left)]  # (..., L)
    step = (convention.chunk or 1) * convention.hop_length
    whole = x.shape[-1] // step
    last = x[..., whole * step :]
    pieces = [x[..., : whole * step].reshape(*x.shape[:-1], whole, step)] if whole else []
    pieces += [last[..., None, :]] if last.shape[-1] else []
    each = []
    for piece in pieces:
        beyond = [(0, 0)] * x.ndim + [(left, n_fft - left)]
        framed = cut(np.pad(piece, beyond, mode=convention.pad_mode))
        each.append(framed.reshape(*x.shape[:-1], -1, n_fft))
    return np.concatenate(each, axis=-2)  # (..., F, N)


def chunk_maximum(loudest: Array, chunk: int | None, running: bool) -> Array:
    """Each frame's maximum -> that of its chunk, or of all frames so far: (..., 1, F) both."""
    if chunk:
        starts = np.arange(0, loudest.shape[-1], chunk)
        every = np.maximum.reduceat(loudest, starts, axis=-1)
        loudest = np.repeat(every, chunk, axis=-1)[..., : loudest.shape[-1]]
    return np.maximum.accumulate(loudest, axis=-1) if running else loudest


# --- frames ---------------------------------------------------------------------------------------


def condition_frames(frames: Array, convention: Convention) -> Array:
    """What Kaldi does to the part of each frame that the window sees: (..., F, N), a copy."""
    frames = np.array(frames)
    before = (convention.n_fft - convention.win_length) // 2
    part = frames[..., before : before + convention.win_length]
    if convention.frame_mean:
        part -= part.mean(axis=-1, keepdims=True)
    if convention.frame_preemphasis:
        previous = np.concatenate([part[..., :1], part[..., :-1]], axis=-1)
        part -= convention.frame_preemphasis * previous
    return frames


# --- the transform --------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def waves(n_fft: int, angles: str) -> Array:
    """exp(-i angle) with the angles in float32: (N, K) complex128.

    "rounded": 2 pi k n / N in float64, then rounded. "float32": every step of it in float32.
    """
    n, k = np.arange(n_fft)[:, None], np.arange(n_fft // 2 + 1)
    angle: Array = 2 * np.pi * (n * k) / n_fft
    if angles == "float32":
        angle = np.float32(2 * np.pi) * (n * k).astype(np.float32) / np.float32(n_fft)
    angle = angle.astype(np.float32).astype(np.float64)
    return np.cos(angle) - 1j * np.sin(angle)


# --- filters --------------------------------------------------------------------------------------


def other_filters(convention: Convention, n_mels: int) -> Array:
    """The filters (M, K) float64 of a convention whose triangles stand or weigh otherwise."""
    c = convention
    about = (c.n_fft, c.filter_rate, c.f_min, c.f_max, c.mel_scale)
    norm = "slaney" if c.mel_norm == "slaney" else None
    bank: Array
    if c.corners is None and not c.straight_in_mels:
        bank = mel_filters(n_mels, *about, norm)
    else:
        bank = triangles(n_mels, *about, norm, c.corners)
    if c.mel_norm == "sum":
        total = bank.sum(axis=1, keepdims=True)
    elif c.mel_norm == "peak":
        total = bank.max(axis=1, keepdims=True)
    else:
        return bank
    return bank / np.where(total == 0, 1, total)


@lru_cache(maxsize=64)
def triangles(
    n_mels: int,
    n_fft: int,
    rate: float,
    f_min: float,
    f_max: float,
    scale: str,
    norm: str | None,
    corners: str | None,
) -> Array:
    """(M, K): with corners on whole bins or, without `corners`, straight in mels and not in Hz."""
    mels = np.linspace(hz_to_mel(f_min, scale), hz_to_mel(f_max, scale), n_mels + 2)
    hz = mel_to_hz(mels.astype(np.float64), scale)
    bins = np.arange(n_fft // 2 + 1) * 1.0
    if corners:
        corner = {
            "floor": np.floor((n_fft + 1) * hz / rate),
            "floor_n_fft": np.floor(n_fft * hz / rate),
            "round": np.round(n_fft * hz / rate),
        }[corners]
    else:
        corner, bins = mels, hz_to_mel(bins * rate / n_fft, scale)
    bank = np.zeros((n_mels, len(bins)))
    for row, low, centre, high in zip(bank, corner, corner[1:], corner[2:], strict=False):
        up, down = (bins >= low) & (bins < centre), (bins >= centre) & (bins < high)
        row[up] = (bins[up] - low) / (centre - low)
        row[down] = (high - bins[down]) / (high - centre)
    if norm:
        bank *= (2 / (hz[2:] - hz[:-2]))[:, None]
    return bank
