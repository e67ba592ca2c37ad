"""The mel scale and the triangular filters that average a spectrum into mel bins.

Hearing is roughly linear in frequency up to 1 kHz and logarithmic above it. Slaney's mel scale
says exactly that; Whisper's filters are triangles, equally wide on this scale.

    # M mel bins  K frequency bins (n_fft // 2 + 1)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Slaney's scale (Auditory Toolbox, 1998): 3 mels per 200 Hz up to 1 kHz, and from there 27 mels
# for each factor of 6.4 in frequency.
HZ_PER_MEL = 200 / 3
BREAK_HZ = 1000.0
BREAK_MEL = BREAK_HZ / HZ_PER_MEL  # 15
LOG_STEP = np.log(6.4) / 27


def hz_to_mel(hz: NDArray[np.float64] | float, scale: str = "slaney") -> NDArray[np.float64]:
    """Hz to mels, any shape, float64. Reproduces `librosa.hz_to_mel(hz, htk=scale == "htk")`."""
    hz = np.asarray(hz, dtype=np.float64)
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    above = BREAK_MEL + np.log(np.maximum(hz, BREAK_HZ) / BREAK_HZ) / LOG_STEP
    return np.where(hz < BREAK_HZ, hz / HZ_PER_MEL, above)


def mel_to_hz(mel: NDArray[np.float64] | float, scale: str = "slaney") -> NDArray[np.float64]:
    """Mels to frequencies in Hz, the inverse of `hz_to_mel`, any shape, float64."""
    mel = np.asarray(mel, dtype=np.float64)
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    above = BREAK_HZ * np.exp(LOG_STEP * (np.maximum(mel, BREAK_MEL) - BREAK_MEL))
    return np.where(mel < BREAK_MEL, mel * HZ_PER_MEL, above)


@lru_cache(maxsize=64)
def mel_filters(
    n_mels: int = 128,
    n_fft: int = 400,
    sampling_rate: int = 16_000,
    f_min: float = 0.0,
    f_max: float = 8_000.0,
    scale: str = "slaney",
    norm: str | None = "slaney",
) -> NDArray[np.float64]:
    """The filter bank: row m holds the weight that each frequency bin has in mel bin m.

    Each filter is a triangle that rises from the centre of the filter before it to its own and
    falls to the centre of the one after it. `norm="slaney"` divides it by half its width in Hz,
    so that a flat spectrum gives every bin the same value however wide its filter is.

    f_min, f_max in Hz; scale "slaney" or "htk"; norm "slaney" or None.

    Returns (M, K) float64, read-only, K = n_fft // 2 + 1. Of Whisper's 128 x 201 weights only 394
    are not zero, at most two per column; the columns of 0 Hz and of 8000 Hz are all zero.
    Raises ValueError for fewer than 1 bin, an empty frequency range, another scale or norm.
    Reproduces `librosa.filters.mel(sr=16000, n_fft=400, n_mels=n_mels, dtype=numpy.float64)`.
    """
    if scale not in ("slaney", "htk") or norm not in ("slaney", None):
        raise ValueError(
            f"mel_filters: scale={scale!r}, norm={norm!r}; expected scale 'slaney' or 'htk', norm "
            "'slaney' or None"
        )
    if n_mels < 1 or not 0 <= f_min < f_max:
        raise ValueError(
            f"mel_filters: n_mels={n_mels}, f_min={f_min}, f_max={f_max}; "
            "expected at least one bin and 0 <= f_min < f_max"
        )
    bin_hz = np.fft.rfftfreq(n_fft, 1 / sampling_rate)  # (K,)
    # M triangles have M + 2 corners, equally spaced in mels.
    corner_mel = np.linspace(hz_to_mel(f_min, scale), hz_to_mel(f_max, scale), n_mels + 2)
    corner_hz = mel_to_hz(corner_mel.astype(np.float64), scale)  # (M + 2,)

    width = np.diff(corner_hz)  # (M + 1,)
    distance = corner_hz[:, None] - bin_hz  # (M + 2, K)
    rising = -distance[:-2] / width[:-1, None]  # (M, K)
    falling = distance[2:] / width[1:, None]  # (M, K)
    filters = np.maximum(0, np.minimum(rising, falling))  # (M, K)
    if norm == "slaney":
        filters *= (2 / (corner_hz[2:] - corner_hz[:-2]))[:, None]
    filters.flags.writeable = False
    return filters
