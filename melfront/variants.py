"""The front end under any `Convention`: for comparing, not for learning. Read `oracle.py` first.

Every `if convention...` is what some other library does, or a mistake that people make. With the
default of each field every stage is the oracle's, bit for bit; `parity` names a mistake in a port
by running this with a field changed. float64 NumPy, as the oracle.

    # L samples  N n_fft = 400  F frames  K frequencies = 201  M mel bins
    # B clips: one more axis in front, where the comments say `...`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .audio import Clips, as_clips, fit_length, is_tensor
from .conventions import CHUNK_LENGTH, Convention, get_convention
from .other_steps import (
    chunk_maximum,
    condition_frames,
    in_chunks,
    other_filters,
    read_wrongly,
    waves,
)

Array = NDArray[Any]
Tap = Callable[[str, Array], Array]  # sees each stage's name and tensor, returns what to go on with


def no_tap(_stage: str, tensor: Array) -> Array:
    return tensor


def condition(clip: Array, convention: Convention) -> Array:
    """What is done to a clip before anything else: in Whisper, nothing. (n,) -> (n,) float64."""
    if convention.read:
        clip = read_wrongly(clip, convention.read)
    clip = clip[convention.skip :].astype(np.float64) * convention.gain
    if convention.normalize == "peak":
        clip = clip / max(np.abs(clip).max(initial=0), 1e-12)
    elif convention.normalize == "rms":
        clip = clip / max(np.sqrt(np.mean(clip**2)), 1e-12)
    elif convention.normalize:
        clip = clip - clip.mean()
        if convention.normalize == "variance":
            clip = clip / np.sqrt(clip.var() + 1e-7)
    if convention.preemphasis:
        clip = clip - convention.preemphasis * np.concatenate([[0.0], clip[:-1]])
    if convention.padded_preemphasis:
        clip = np.append(clip, 0.0)
        clip = clip - convention.padded_preemphasis * np.concatenate([[0.0], clip[:-1]])
    return clip


def pad(clip: Array, n_samples: int, convention: Convention) -> Array:
    """Zeros up to n_samples, then half a window beyond each edge: (n,) -> (L + N,)."""
    left = -convention.start
    right = convention.n_fft - left
    clip = clip[:n_samples]
    zeros = (0, n_samples - len(clip))
    if convention.pad_side == "left":
        zeros = zeros[::-1]
    if convention.edges_first:
        padded = np.pad(np.pad(clip, (left, right), mode=convention.pad_mode), zeros)
    else:
        padded = np.pad(np.pad(clip, zeros), (left, right), mode=convention.pad_mode)
    if convention.pad_twice:
        padded = np.pad(padded, convention.n_fft // 2, mode=convention.pad_mode)
    return padded


def frames(padded: Array, convention: Convention) -> Array:
    """(..., L + N) -> (..., F, N), a view."""
    if convention.chunk:
        alone = replace(convention, chunk=None)
        return in_chunks(padded, convention, lambda piece: frames(piece, alone))
    n_fft, hop = convention.n_fft, convention.hop_length
    every = np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=-1)[..., ::hop, :]
    if convention.drop == "last":
        return every[..., :-1, :]
    return every[..., 1:, :] if convention.drop == "first" else every


def window(convention: Convention) -> Array:
    """(N,) float64, read-only; one shorter than n_fft is centred in it."""
    return window_of(
        convention.window, convention.win_length, convention.periodic, convention.n_fft
    )


@lru_cache(maxsize=64)
def window_of(name: str | None, win_length: int, periodic: bool, n_fft: int) -> Array:
    n = np.arange(win_length)
    angle = 2 * np.pi * n / (len(n) if periodic else len(n) - 1)
    hann = 0.5 - 0.5 * np.cos(angle)
    shape = {
        "hann": hann,
        "hamming": 0.54 - 0.46 * np.cos(angle),
        "blackman": 0.42 - 0.5 * np.cos(angle) + 0.08 * np.cos(2 * angle),
        "povey": hann**0.85,  # Kaldi's default
        "sqrt_hann": np.sqrt(hann),
        "squared_hann": hann**2,
        "triangle": 1 - np.abs(angle / np.pi - 1),
        None: np.ones(len(n)),
    }[name]
    spare = n_fft - len(n)
    padded = np.pad(shape, (spare // 2, spare - spare // 2))
    padded.flags.writeable = False
    return padded


def windowed(frames: Array, convention: Convention) -> Array:
    """(..., F, N) -> (..., F, N)."""
    if convention.frame_mean or convention.frame_preemphasis:
        frames = condition_frames(frames, convention)
    return frames * window(convention)


def spectrum(windowed: Array, convention: Convention) -> Array:
    """(..., F, N) -> (..., F, K) complex128."""
    if convention.angles != "exact":
        return windowed @ waves(convention.n_fft, convention.angles) * convention.spectrum_scale
    return np.fft.rfft(windowed) * convention.spectrum_scale


def power(spectrum: Array, convention: Convention) -> Array:
    """(..., F, K) complex128 -> (..., F, K) float64."""
    squared = (spectrum.imag if convention.spectrum_part == "imaginary" else spectrum.real) ** 2
    if convention.spectrum_part == "complex":
        squared = squared + spectrum.imag**2
    if convention.folded:
        squared[..., 1:-1] *= 2
    return squared if convention.power == 2 else squared ** (convention.power / 2)


def round_mantissa(x: Any, bits: int) -> Any:
    """x with this many bits kept after the leading one, to nearest even: 10 is TF32, 7 bfloat16.

    An array or a tensor, any shape, any float dtype, which the result has too.
    """
    if is_tensor(x):
        rounded = round_mantissa(x.detach().double().cpu().numpy(), bits)
        return x.new_tensor(rounded)
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.round(mantissa * 2.0 ** (bits + 1)), exponent - bits - 1).astype(x.dtype)


def filters(convention: Convention, n_mels: int) -> Array:
    """`filterbank.mel_filters` of a convention, as far as it has them: (M, K) float64."""
    c = convention
    bank = other_filters(c, n_mels)
    if c.bin_shift:
        bank = np.roll(bank, c.bin_shift, axis=1)
    return bank[::-1] if c.flip_mels else bank


def mel(power: Array, convention: Convention, n_mels: int) -> Array:
    """(..., F, K) -> (..., M, F)."""
    bank = filters(convention, n_mels)  # (M, K)
    if convention.mel_mantissa is not None:
        bank = round_mantissa(bank, convention.mel_mantissa)
        power = round_mantissa(power, convention.mel_mantissa)
    return bank @ power.swapaxes(-1, -2)  # (..., M, F)


def log(mel: Array, convention: Convention) -> Array:
    """(..., M, F) -> (..., M, F)."""
    if not convention.logarithm:
        return mel
    floor = convention.log_floor
    above = mel + floor if convention.floor_added else np.maximum(mel, floor)
    return convention.log_factor * np.log10(above) / np.log10(convention.log_base)


def counted(clips: Clips, n_frames: int, convention: Convention) -> Any:
    """Which of n_frames count for the maximum: in Whisper all, True. Else (1, F) or (B, 1, F)."""
    if convention.max_frames == "all" or convention.own_length:
        return True
    own = [(len(clip) + convention.extra_padding) // convention.hop_length for clip in clips.arrays]
    of_clip = np.arange(n_frames) < np.maximum(own, 1)[:, None, None]  # (B, 1, F)
    return of_clip if clips.batched else of_clip[0]


def maximum(log: Array, convention: Convention, counts: Any = True) -> Any:
    """What the clamp hangs from, which broadcasts with log (..., M, F); None: nothing is clamped.

    `counts` is what `counted` returns.
    """
    axes = {"item": (-2, -1), "batch": None, "frame": -2, "bin": -1}
    c = convention
    if c.fixed_max is not None:
        return c.fixed_max
    if c.max_chunk or c.max_running:
        loudest = log.max(axis=-2, keepdims=True, where=counts, initial=-np.inf)  # of each frame
        return chunk_maximum(loudest, c.max_chunk, c.max_running)
    if c.max_scope is None:
        return None
    return log.max(axis=axes[c.max_scope], keepdims=True, where=counts, initial=-np.inf)


def clamp(log: Array, convention: Convention, counts: Any = True) -> Array:
    """(..., M, F) -> (..., M, F). `counts` is what `counted` returns."""
    return clamp_below(log, maximum(log, convention, counts), convention)


def clamp_below(log: Array, loudest: Any, convention: Convention) -> Array:
    """(..., M, F) -> (..., M, F). `loudest` is what `maximum` returns."""
    if loudest is not None:
        log = np.maximum(log, loudest - convention.dynamic_range)
    if convention.max_subtracted:
        log = log - (log.max(axis=(-2, -1), keepdims=True) if loudest is None else loudest)
    return log


def scale(clamped: Array, convention: Convention, valid: Any = True) -> Array:
    """(..., M, F) -> (..., M, F). valid: which frames count for the mean; it broadcasts."""
    features = (clamped + convention.offset) / convention.divisor
    how = convention.output_mean
    if how is None:
        return features
    if how == "range":
        least = features.min(axis=(-2, -1), keepdims=True)
        return (features - least) / np.maximum(np.ptp(features, axis=(-2, -1), keepdims=True), 1e-5)
    axes: Any = {"frame": -2, "item": (-2, -1)}.get(how, -1)
    where = True if how == "frame" else np.broadcast_to(valid, features.shape)
    features = features - features.mean(axis=axes, keepdims=True, where=where)
    if how == "bin_mean":
        return features
    spread = features.std(axis=axes, keepdims=True, where=where, ddof=int(how == "bin_unbiased"))
    # NeMo adds 1e-5; elsewhere it only keeps silence from being divided by 0.
    return features / (spread + 1e-5 if axes == -1 else np.maximum(spread, 1e-5))


def before_tail(clips: Clips, n_frames: int, convention: Convention) -> Any:
    """Which of n_frames are not filled: (1, F), or (B, 1, F) of a batch; True: all."""
    if convention.fill is None:
        return True
    if convention.own_length:
        return np.ones((1, n_frames), bool)
    ends = np.array([len(clip) // convention.hop_length for clip in clips.arrays])
    before = np.arange(n_frames) < ends[:, None, None]  # (B, 1, F)
    return before if clips.batched else before[0]


def fill_tail(features: Array, clips: Clips, length: int, convention: Convention) -> Array:
    """`fill` in the frames after each clip: (..., M, F) -> (..., M, length // hop_length).

    Reproduces whisper.pad_or_trim on a mel: transcribe pads the features where transformers has
    padded the waveform, so that its tail is 0.0 and not what silence gives.
    """
    c = convention
    if c.fill is not None:
        features = features[..., : length // c.hop_length]
        features = np.where(before_tail(clips, features.shape[-1], c), features, c.fill)
        missing = length // c.hop_length - features.shape[-1] if c.own_length else 0
        beyond = [(0, 0)] * (features.ndim - 1) + [(0, missing)]
        features = np.pad(features, beyond, constant_values=c.fill) if missing else features
    if c.unwritten:
        features = np.where(np.arange(features.shape[-1])[::-1] < c.unwritten, 0.0, features)
    return features


def total_length(clips: Clips, length: int, convention: Convention) -> int:
    """Samples that the waveform is padded to."""
    if convention.own_length:
        return max(len(clip) for clip in clips.arrays)
    return length + convention.extra_padding


def run(clips: Clips, length: int, n_mels: int, convention: Convention, tap: Tap) -> Array:
    """All stages, one after the other, of clips of up to `length` samples -> (..., M, F).

    `tap(stage, tensor)` sees each stage and returns what the next one gets.
    """
    total = total_length(clips, length, convention)
    padded = [pad(condition(clip, convention), total, convention) for clip in clips.arrays]
    x = tap("padded", np.stack(padded) if clips.batched else padded[0])
    x = tap("frames", frames(x, convention))
    x = tap("windowed", windowed(x, convention))
    x = tap("spectrum", spectrum(x, convention))
    x = tap("power", power(x, convention))
    x = tap("mel", mel(x, convention, n_mels))
    x = tap("log", log(x, convention))
    x = clamp(x, convention, counted(clips, x.shape[-1], convention))
    x = tap("clamped", x[..., :-1] if convention.drop == "last_after_max" else x)
    x = scale(x, convention, before_tail(clips, x.shape[-1], convention))
    return tap("features", fill_tail(x, clips, length, convention))


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
    """Waveform to log-mel features in float64, under any convention.

    Takes what `melfront.log_mel` takes but return_mask, raises what it raises, and every field of
    `Convention` counts. `tap` is as of `run`. Returns NumPy, for tensors too: (M, F) float64 for
    one clip, (B, M, F) for a batch; F = 3000 for pad_to=30.0, where the convention keeps that.
    Reproduces what each named convention is named after.
    """
    convention = get_convention(convention)
    clips = as_clips(audio, sampling_rate, check_range).numpy()
    length = fit_length(clips, pad_to, truncate)
    return run(clips.cut(length), length, n_mels, convention, tap)


def trace(audio: object, **options: Any) -> dict[str, Array]:
    """Every stage of `log_mel(audio, **options)`, name to tensor, in order.

    Exercises. Break one decision. Say which stage goes wrong first, and where; only then run it:

        from dataclasses import replace
        import melfront
        from melfront import parity

        audio = melfront.load_audio("sample")
        broken = replace(melfront.CONVENTIONS["transformers"], CHANGE)
        report = parity.compare(melfront.variants.trace(audio, convention=broken), audio=audio)
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

    log_mel(audio, tap=stages.setdefault, **options)  # which returns what it keeps
    return stages
