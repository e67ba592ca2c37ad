"""Whisper's front end in float64 NumPy, one function per stage: read this file first.

A microphone gives 16,000 numbers a second. Whisper's encoder wants a picture: time across, pitch
upwards, loudness as brightness. Nine stages make it:

    padded    the waveform with zeros up to 30 s, and mirrored at both edges      (L + 400,)
    frames    overlapping pieces of 25 ms, one every 10 ms                         (F, N)
    windowed  each piece faded in and out                                          (F, N)
    spectrum  how much of each frequency a piece holds, as a complex number        (F, K)
    power     its squared size                                                     (F, K)
    mel       neighbouring frequencies averaged the way an ear does                (M, F)
    log       loudness: ten times the power is one step up                         (M, F)
    clamped   nothing quieter than 80 dB below the loudest place                   (M, F)
    features  moved to about -1 .. 1                                               (M, F)

    # L samples  N n_fft = 400  F frames  K frequencies = 201  M mel bins  B clips, or none: ...
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .audio import as_clips, fit_length
from .conventions import CHUNK_LENGTH, DYNAMIC_RANGE, HOP_LENGTH, LOG_FLOOR, N_FFT
from .filterbank import mel_filters

Array = NDArray[Any]


def pad(clip: Array, n_samples: int) -> Array:
    """Zeros after the clip up to n_samples, then half a window more at each edge.

    Frame 0 is centred on sample 0, so its first half is before the clip, where there is nothing:
    the waveform is *mirrored* at its edge, so that x[-1] is x[1]. The zeros come first: what is
    mirrored on the right is silence, unless the clip fills all of the 30 s.
    (n,) -> (L + 400,) float64. Reproduces transformers' pad followed by torch.stft(center=True).
    """
    clip = np.pad(clip.astype(np.float64), (0, n_samples - len(clip)))  # (L,)
    return np.pad(clip, N_FFT // 2, mode="reflect")  # (L + 400,)


def frames(padded: Array) -> Array:
    """Cut the waveform into pieces of 400 samples (25 ms) that start every 160 samples (10 ms).

    Frame f covers samples 160 f - 200 .. 160 f + 199 of the clip. A clip of L samples gives
    L // 160 + 1 frames, and Whisper drops the last: 30 s are exactly 3000 frames.
    (..., L + 400) -> (..., F, N), a view. Reproduces the framing of torch.stft.
    """
    every = np.lib.stride_tricks.sliding_window_view(padded, N_FFT, axis=-1)[..., ::HOP_LENGTH, :]
    return every[..., :-1, :]  # (..., F, N)


def window() -> Array:
    """The Hann window, one period of a cosine turned into a hill: 0 at its edge, 1 in its middle.

    A piece cut out of a wave begins and ends with a jump, and a jump holds every frequency. Fading
    both ends to zero leaves the frequencies of the sound itself. *Periodic*: the hill is 400
    samples wide and the 401st, which would be 0 again, belongs to the next period.
    Returns (N,) float64. Reproduces torch.hann_window(400, periodic=True).
    """
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)  # (N,)


def spectrum(windowed: Array) -> Array:
    """How much each frame resembles each of 201 waves: its discrete Fourier transform.

    X[k] = sum over n of x[n] exp(-2 pi i k n / N), for k = 0 .. N/2. Wave k has k periods in N
    samples, which is 40 k Hz. The complex number holds its size and its phase.
    (..., F, N) -> (..., F, K) complex128.
    """
    return np.fft.rfft(windowed)  # (..., F, K)


def power(spectrum: Array) -> Array:
    """The energy at each frequency; the phase is dropped. (..., F, K) -> (..., F, K), real."""
    return spectrum.real**2 + spectrum.imag**2


def mel(power: Array, n_mels: int) -> Array:
    """Average the 201 frequencies in M overlapping triangles, narrow for low pitch, wide for high.

    From here on time runs along the last axis, as in the picture: (..., F, K) -> (..., M, F).
    """
    return mel_filters(n_mels) @ power.swapaxes(-1, -2)  # (..., M, F)


def log(mel: Array) -> Array:
    """log10, because an ear hears ratios, of at least 1e-10, because 0 has no logarithm.

    (..., M, F) -> (..., M, F). Silence gives -10.
    """
    return np.log10(np.maximum(mel, LOG_FLOOR))


def clamp(log: Array) -> Array:
    """Raise everything more than 8 below the loudest value to exactly 8 below it.

    8 in log10 is 80 dB: anything that much quieter than the speech is noise. The loudest value is
    that of the clip, over all bins and frames; in a batch, each clip has its own.
    (..., M, F) -> (..., M, F).
    """
    return np.maximum(log, log.max(axis=(-2, -1), keepdims=True) - DYNAMIC_RANGE)


def scale(clamped: Array) -> Array:
    """Bring speech to about -1 .. 1, where a clip whose loudest value is 0 had -8 .. 0.

    (..., M, F) -> (..., M, F). Pure silence, -10, gives -1.5.
    """
    return (clamped + 4) / 4


def trace(
    audio: object,
    *,
    n_mels: int = 128,
    pad_to: float | None = CHUNK_LENGTH,
    truncate: bool = False,
    sampling_rate: int | None = None,
    check_range: bool = True,
) -> dict[str, Array]:
    """Every stage of `log_mel(audio)`, name to tensor, in order; the shapes are in the table."""
    clips = as_clips(audio, sampling_rate, check_range).numpy()
    length = fit_length(clips, pad_to, truncate)
    padded = [pad(clip, length) for clip in clips.cut(length).arrays]
    x = {"padded": np.stack(padded) if clips.batched else padded[0]}
    x["frames"] = frames(x["padded"])  # (..., F, N)
    x["windowed"] = x["frames"] * window()
    x["spectrum"] = spectrum(x["windowed"])  # (..., F, K)
    x["power"] = power(x["spectrum"])
    x["mel"] = mel(x["power"], n_mels)  # (..., M, F)
    x["log"] = log(x["mel"])
    x["clamped"] = clamp(x["log"])
    x["features"] = scale(x["clamped"])
    return x


def log_mel(audio: object, **options: Any) -> NDArray[np.float64]:
    """Waveform to log-mel features in float64: the definition that everything else is held to.

    Takes what `melfront.log_mel` takes, except convention and return_mask, and raises the same.
    Returns NumPy, for tensors too: (M, F) for one clip, (B, M, F) for a batch, F = 3000 for 30 s.
    Reproduces transformers' WhisperFeatureExtractor and, for one clip, openai-whisper.
    """
    return trace(audio, **options)["features"]
