"""Whisper's front end in float64 NumPy, one function per stage: read this file first.

A microphone gives 16,000 numbers a second. Whisper's encoder wants a picture: time across, pitch
upwards, loudness as brightness. The picture is made in nine stages:

    padded    the waveform with zeros up to 30 s, and mirrored at both edges      (L + 400,)
    frames    overlapping pieces of 25 ms, one every 10 ms                         (F, N)
    windowed  each piece faded in and out                                          (F, N)
    spectrum  how much of each frequency a piece holds, as a complex number        (F, K)
    power     its squared size                                                     (F, K)
    mel       neighbouring frequencies averaged the way an ear does                (M, F)
    log       loudness: ten times the power is one step up                         (M, F)
    clamped   nothing quieter than 80 dB below the loudest place                   (M, F)
    features  moved to about -1 .. 1                                               (M, F)

    # L samples  N n_fft = 400  F frames  K frequencies = 201  M mel bins

Every `if convention...` that is not the default is what some other library does, or a mistake that
somebody made. To learn the pipeline, read past them: the default of each field is Whisper's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .audio import Clips, as_clips, fit_length
from .conventions import CHUNK_LENGTH, Convention, get_convention
from .filterbank import mel_filters

Array = NDArray[Any]
Tap = Callable[[str, Array], Array]  # sees each stage's name and tensor, returns what to go on with


def no_tap(_stage: str, tensor: Array) -> Array:
    return tensor


def condition(clip: Array, convention: Convention) -> Array:
    """What is done to a clip before anything else: in Whisper, nothing. (n,) -> (n,) float64."""
    clip = clip.astype(np.float64) * convention.gain
    if convention.normalize == "peak":
        clip = clip / max(np.abs(clip).max(), 1e-12)
    elif convention.normalize:
        clip = clip - clip.mean()
        if convention.normalize == "variance":
            clip = clip / np.sqrt(clip.var() + 1e-7)
    if convention.preemphasis:
        clip = clip - convention.preemphasis * np.concatenate([[0.0], clip[:-1]])
    return clip


def pad(clip: Array, n_samples: int, convention: Convention) -> Array:
    """Zeros after the clip up to n_samples, then half a window more at each edge.

    Frame 0 is centred on sample 0, so its first half lies before the clip. There is nothing there;
    the waveform is *mirrored* at its edge, so that x[-1] is x[1]. The zeros come first: what is
    mirrored on the right is silence, unless the clip fills all of the 30 s.

    (n,) -> (L + 400,), float64. Reproduces transformers' pad followed by torch.stft(center=True).
    """
    left = -convention.start
    right = convention.n_fft - left
    zeros = (0, n_samples - len(clip))
    if convention.pad_side == "left":
        zeros = zeros[::-1]
    if convention.edges_first:
        return np.pad(np.pad(clip, (left, right), mode=convention.pad_mode), zeros)
    return np.pad(np.pad(clip, zeros), (left, right), mode=convention.pad_mode)


def frames(padded: Array, convention: Convention) -> Array:
    """Cut the waveform into pieces of 400 samples (25 ms) that start every 160 samples (10 ms).

    Frame f covers samples 160 f - 200 .. 160 f + 199 of the clip. A clip of L samples gives
    L // 160 + 1 frames, and Whisper drops the last: 30 s are exactly 3000 frames.

    (..., L + 400) -> (..., F, N), a view. Reproduces the framing of torch.stft.
    """
    n_fft, hop = convention.n_fft, convention.hop_length
    every = np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=-1)[..., ::hop, :]
    if convention.drop == "last":
        return every[..., :-1, :]
    return every[..., 1:, :] if convention.drop == "first" else every


def window(convention: Convention) -> NDArray[np.float64]:
    """The Hann window, one period of a cosine turned into a hill: 0 at its edge, 1 in its middle.

    A piece cut out of a wave begins and ends with a jump, and a jump holds every frequency. Fading
    both ends to zero leaves the frequencies of the sound itself. *Periodic*: the hill is 400
    samples wide and the 401st, which would be 0 again, belongs to the next period.

    Returns (N,) float64. Reproduces torch.hann_window(400, periodic=True).
    """
    n = np.arange(convention.win_length)
    angle = 2 * np.pi * n / (len(n) if convention.periodic else len(n) - 1)
    hann = 0.5 - 0.5 * np.cos(angle)
    shape = {
        "hann": hann,
        "hamming": 0.54 - 0.46 * np.cos(angle),
        "blackman": 0.42 - 0.5 * np.cos(angle) + 0.08 * np.cos(2 * angle),
        "povey": hann**0.85,  # Kaldi's default
        "sqrt_hann": np.sqrt(hann),
        None: np.ones(len(n)),
    }[convention.window]
    spare = convention.n_fft - len(n)
    return np.pad(shape, (spare // 2, spare - spare // 2))


def dft(x: Array) -> Array:
    """The discrete Fourier transform by its definition: how much x resembles each of K waves.

    X[k] = sum over n of x[n] exp(-2 pi i k n / N), for k = 0 .. N/2. Bin k is a wave of k periods
    in N samples, that is of 40 k Hz. The complex number holds its size and its phase. Nobody
    computes it so - N^2 steps where the fast Fourier transform needs N log N - but it is what rfft
    means.

    (..., N) -> (..., K) complex128
    """
    n = np.arange(x.shape[-1])
    k = np.arange(x.shape[-1] // 2 + 1)
    waves = np.exp(-2j * np.pi * np.outer(n, k) / len(n))  # (N, K)
    return x @ waves


def spectrum(windowed: Array, convention: Convention) -> Array:
    """`dft` of each frame by the fast Fourier transform: (..., F, N) -> (..., F, K) complex128."""
    return np.fft.rfft(windowed, axis=-1) * convention.spectrum_scale


def power(spectrum: Array, convention: Convention) -> Array:
    """The squared size of each number, the energy at that frequency; the phase is thrown away.

    (..., F, K) complex128 -> (..., F, K) float64
    """
    real, imag = spectrum.real, spectrum.imag
    squared = real * real if convention.spectrum_part == "real" else real * real + imag * imag
    if convention.folded:
        squared = np.concatenate(
            [squared[..., :1], 2 * squared[..., 1:-1], squared[..., -1:]], axis=-1
        )
    return squared if convention.power == 2 else squared ** (convention.power / 2)


def round_mantissa(x: Array, bits: int) -> Array:
    """x with only this many bits behind the leading one kept, to nearest; any shape, float64."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 2.0 ** (bits + 1)), exponent - bits - 1)


def filters(convention: Convention, n_mels: int) -> Array:
    """The mel filter bank of a convention, (M, K) float64: `filterbank.mel_filters`."""
    bank = mel_filters(
        n_mels,
        convention.n_fft,
        convention.filter_rate,
        convention.f_min,
        convention.f_max,
        convention.mel_scale,
        convention.mel_norm,
    )
    if convention.bin_shift:
        bank = np.roll(bank, convention.bin_shift, axis=1)
    return bank[::-1] if convention.flip_mels else bank


def mel(power: Array, convention: Convention, n_mels: int) -> Array:
    """Average the 201 frequencies in M overlapping triangles, narrow for low pitch, wide for high.

    From here on time runs along the last axis, as in the picture: (..., F, K) -> (..., M, F).
    """
    bank = filters(convention, n_mels)  # (M, K)
    if convention.mel_mantissa is not None:
        bank = round_mantissa(bank, convention.mel_mantissa)
        power = round_mantissa(power, convention.mel_mantissa)
    return bank @ power.swapaxes(-1, -2)  # (..., M, F)


def log(mel: Array, convention: Convention) -> Array:
    """log10 of at least 1e-10, because an ear hears ratios, and because silence has no logarithm.

    (..., M, F) -> (..., M, F). Silence gives -10.
    """
    floor = convention.log_floor
    above = mel + floor if convention.floor_added else np.maximum(mel, floor)
    return convention.log_factor * np.log(above) / np.log(convention.log_base)


def counted(clips: Clips, n_frames: int, convention: Convention) -> Any:
    """Which of n_frames count for the maximum: in Whisper all, True. Else (1, F) or (B, 1, F)."""
    if convention.max_frames == "all":
        return True
    own = [(len(clip) + convention.extra_padding) // convention.hop_length for clip in clips.arrays]
    of_clip = np.arange(n_frames) < np.maximum(own, 1)[:, None, None]  # (B, 1, F)
    return of_clip if clips.batched else of_clip[0]


def clamp(log: Array, convention: Convention, counts: Any = True) -> Array:
    """Raise everything that is more than 8 (80 dB) below the loudest value to just that.

    What is so much quieter than the speech is noise. The maximum is the clip's own: in a batch each
    clip has its own in transformers; openai-whisper takes one for the whole batch. `counts` is what
    `counted` returns.

    (..., M, F) -> (..., M, F)
    """
    axes = {"item": (-2, -1), "batch": None, "frame": -2, "bin": -1}
    if convention.fixed_max is not None:
        loudest: Any = convention.fixed_max
    elif convention.max_scope is None:
        return log
    else:
        axis = axes[convention.max_scope]
        loudest = log.max(axis=axis, keepdims=True, where=counts, initial=-np.inf)
    return np.maximum(log, loudest - convention.dynamic_range)


def scale(clamped: Array, convention: Convention) -> Array:
    """(x + 4) / 4, which brings speech to about -1 .. 1. Silence: (-10 + 4) / 4 = -1.5.

    (..., M, F) -> (..., M, F)
    """
    features = (clamped + convention.offset) / convention.divisor
    if convention.output_mean:
        axes = -1 if convention.output_mean == "bin" else (-2, -1)
        features = features - features.mean(axis=axes, keepdims=True)
        spread = features.std(axis=axes, keepdims=True)
        # NeMo adds 1e-5; elsewhere it only keeps silence from being divided by 0.
        features = features / (spread + 1e-5 if axes == -1 else np.maximum(spread, 1e-5))
    return features


def fill_tail(features: Array, n_content: int, fill: float) -> Array:
    """`fill` in every frame from n_content on: (M, F) -> (M, F).

    Reproduces whisper.pad_or_trim on a mel: transcribe pads the features where transformers has
    padded the waveform, so that its tail is 0.0 and not what silence gives.
    """
    after_clip = np.arange(features.shape[-1]) >= n_content
    return np.where(after_clip, fill, features)


def run(clips: Clips, length: int, n_mels: int, convention: Convention, tap: Tap) -> Array:
    """All stages, one after the other, of clips of up to `length` samples -> (..., M, F).

    `tap(stage, tensor)` sees each stage and returns what the next one gets.
    """
    total = length + convention.extra_padding
    conditioned = [condition(clip, convention) for clip in clips.arrays]
    padded = [pad(clip, total, convention) for clip in conditioned]
    x = np.stack(padded) if clips.batched else padded[0]

    x = tap("padded", x)
    x = tap("frames", frames(x, convention))
    x = tap("windowed", x * window(convention))
    x = tap("spectrum", spectrum(x, convention))
    x = tap("power", power(x, convention))
    x = tap("mel", mel(x, convention, n_mels))
    x = tap("log", log(x, convention))
    x = clamp(x, convention, counted(clips, x.shape[-1], convention))
    if convention.drop == "last_after_max":
        x = x[..., :-1]
    x = tap("clamped", x)
    x = scale(x, convention)
    if convention.fill is not None:
        hop = convention.hop_length
        x = x[..., : length // hop]
        items = [
            fill_tail(item, len(clip) // hop, convention.fill)
            for item, clip in zip(x.reshape(-1, *x.shape[-2:]), clips.arrays, strict=True)
        ]
        x = np.stack(items).reshape(x.shape)
    return tap("features", x)


def log_mel(
    audio: object,
    *,
    n_mels: int = 128,
    convention: str | Convention = "transformers",
    pad_to: float | None = CHUNK_LENGTH,
    truncate: bool = False,
    sampling_rate: int | None = None,
    check_range: bool = True,
    tap: Tap = no_tap,
) -> NDArray[np.float64]:
    """Waveform to log-mel features in float64: the definition that everything else is held to.

    Takes what `melfront.log_mel` takes but return_mask, raises what it raises, and every field of
    `Convention` counts. Returns NumPy, for tensors too: (M, F) float64 for one clip, (B, M, F) for
    a batch; F = 3000 for pad_to=30.0.
    Reproduces transformers' WhisperFeatureExtractor, openai-whisper's log_mel_spectrogram.
    """
    convention = get_convention(convention)
    clips = as_clips(audio, sampling_rate, check_range).numpy()
    length = fit_length(clips, pad_to, truncate)
    return run(clips.cut(length), length, n_mels, convention, tap)


def trace(audio: object, **options: Any) -> dict[str, Array]:
    """Every stage of `log_mel(audio, **options)`, name to tensor, in order.

    Exercises. Break one decision. Say which stage goes wrong first, and where; only then run it:

        from dataclasses import replace
        import melfront, parity

        audio = melfront.load_audio("reference_data/sample.flac")
        broken = replace(melfront.CONVENTIONS["transformers"], CHANGE)
        report = parity.compare(melfront.oracle.trace(audio, convention=broken), audio=audio)
        print(report)

    1. CHANGE is `pad_mode="constant"`: the edges are zeros, not mirrored. How many of the 3000
       frames go wrong, and why none at the end?
    2. CHANGE is `log_floor=1e-8`: 100 times as high. Most of the clip is silence. Which stages are
       wrong, and why is the last one right?
    3. CHANGE is `max_scope="batch"`: one maximum for all clips. Run it as it is, and again with
       `audio = [audio, audio / 1000]`. Which clip is wrong, and from which stage on?

    The answers are in tests/test_exercises.py.
    """
    stages: dict[str, Array] = {}

    def keep(stage: str, tensor: Array) -> Array:
        stages[stage] = tensor
        return tensor

    log_mel(audio, tap=keep, **options)
    return stages
