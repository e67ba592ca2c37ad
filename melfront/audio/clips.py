"""One clip or a batch of clips, from any container of audio, and how long to pad them."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..conventions import CHUNK_LENGTH, N_FFT, SAMPLE_RATE
from .file import SAMPLE, decode, load_audio
from .waveform import AudioError, check_rate, check_samples, is_tensor, to_float

MIN_SAMPLES = N_FFT // 2 + 1  # samples 1 .. 200 are mirrored at the left edge
MAX_CHANNELS = 8


class Clips(NamedTuple):
    """One clip or a batch, each clip (N,) of floats; all NumPy or all torch."""

    arrays: list[Any]
    batched: bool

    def cut(self, length: int) -> Clips:
        return Clips([clip[:length] for clip in self.arrays], self.batched)

    def check(self, check_range: bool = True) -> None:
        """Raise AudioError for a clip that is empty, or not finite, or far outside [-1, 1]."""
        for i, clip in enumerate(self.arrays):
            check_samples(clip, f"clip {i}" if self.batched else "audio", check_range)

    def numpy(self) -> Clips:
        """The same clips as NumPy arrays."""
        arrays = [clip.numpy(force=True) if is_tensor(clip) else clip for clip in self.arrays]
        return Clips(arrays, self.batched)


def as_clips(audio: Any, sampling_rate: int | None = None, check_range: bool = True) -> Clips:
    """One clip or a batch, from whatever holds the audio, checked.

    audio: one of
        an array or tensor (N,), or a list of numbers: one clip
        an array or tensor (B, N), or a list of clips: a batch
        a row of a `datasets` audio column: a dict with `array` and `sampling_rate`, with `bytes` or
            with a `path`, which is read as `load_audio` does, or a torchcodec decoder: one clip
        a column of pandas, `datasets`, pyarrow or Ray, an object array or another sequence: as the
            list of its items
    check_range: False lets values beyond [-10, 10] through, but never NaN or infinity.

    Floats are taken as they are, integer PCM is scaled by its dtype. Raises AudioError for audio
    that cannot be meant, TypeError for anything else.
    """
    clips = unchecked_clips(audio, sampling_rate)
    clips.check(check_range)
    return clips


def unchecked_clips(audio: Any, sampling_rate: int | None = None) -> Clips:
    """`as_clips` without a look at the values, which a backend can take in its own pass."""
    check_rate(sampling_rate)
    audio = as_list(audio)
    if not is_batch(audio):
        return Clips([as_clip(audio, "audio")], batched=False)
    clips = [as_clip(item, f"clip {i}") for i, item in enumerate(audio)]
    if len({is_tensor(clip) for clip in clips}) > 1:
        raise AudioError("a batch with both NumPy arrays and torch tensors; give one kind")
    return Clips(clips, batched=True)


def is_batch(audio: Any) -> bool:
    """Is this, from `as_list`, a list of clips or a 2-D array?"""
    if isinstance(audio, (list, tuple)):
        return not all(isinstance(x, Real) for x in audio)
    if getattr(audio, "ndim", 1) != 2:
        return False
    check_shape(audio)
    return True


def as_list(audio: Any) -> Any:
    """A column, an object array or another sequence as a list or an array; others unchanged."""
    if type(audio) is np.ndarray and audio.dtype != object:  # by far the most frequent
        return audio
    if is_tensor(audio):
        return audio.unbind() if audio.is_nested else audio
    if hasattr(audio, "as_py"):  # a pyarrow scalar
        return audio.as_py()
    kept = (list, tuple, str, bytes, bytearray, os.PathLike, Mapping)
    if isinstance(audio, kept) or hasattr(audio, "get_all_samples"):
        return audio
    if not hasattr(audio, "__array__"):
        try:
            audio = memoryview(audio)
        except TypeError:  # not a buffer
            return list(audio) if isinstance(audio, Iterable) else audio
        if audio.format == "B":
            return audio.tobytes()  # the bytes of a file, for which as_clip has a message
    audio = np.asarray(audio)
    return audio.tolist() if audio.dtype == object and audio.ndim else audio


def as_clip(audio: Any, name: str) -> Any:
    """One clip as a 1-D floating-point array or tensor."""
    return to_float(samples_of_clip(audio, name), name)


def samples_of_clip(audio: Any, name: str) -> Any:
    """One clip as a 1-D array or tensor of any type."""
    audio = as_list(audio)
    if not (isinstance(audio, np.ndarray) or is_tensor(audio)):
        audio = decoded(audio, name)
    if audio.ndim != 1:
        raise no_clip(audio, name)
    return audio


def decoded(audio: Any, name: str) -> Any:
    """The array of a dict, a decoder or a list of numbers."""
    if isinstance(audio, Mapping):
        audio = of_dict(audio, name)
    elif hasattr(audio, "get_all_samples"):  # torchcodec.decoders.AudioDecoder
        audio, rate = decode(audio)
        check_rate(rate)
    if isinstance(audio, (str, bytes, bytearray, os.PathLike)):
        raise TypeError(f"{name}: expected a waveform; read a file with melfront.load_audio(...)")
    if is_tensor(audio):
        return audio
    try:
        return np.asarray(audio)
    except ValueError as error:  # a list of lists of unlike lengths
        raise AudioError(f"{name}: expected one clip (N,), not a list of several") from error


def of_dict(audio: Mapping[str, Any], name: str) -> Any:
    """The waveform of a row of a `datasets` audio column, read from its file if not decoded."""
    if "array" in audio:
        check_rate(audio.get("sampling_rate"))
        return as_list(audio["array"])
    try:
        return load_audio(audio)
    except AudioError as error:
        raise AudioError(f"{name}: {error}") from error


def check_shape(audio: Any) -> None:
    """Raise AudioError for an array that is neither a clip (N,) nor a batch of clips (B, N).

    Under a trace a size may be a symbol instead of an int; that is not checked.
    """
    if audio.ndim not in (1, 2):
        raise no_clip(audio, "audio")
    n_clips, n_samples = (1, *audio.shape)[-2:]
    if not isinstance(n_clips, int) or not isinstance(n_samples, int):
        return
    if n_samples <= MAX_CHANNELS < n_clips:
        raise AudioError(
            f"an array of shape {tuple(audio.shape)} looks like one clip of {n_samples} channels, "
            "samples first; a 2-D array is a batch of clips (B, N). Mix it down: audio.mean(axis=1)"
        )
    if n_clips == 0:
        raise AudioError("an empty batch; expected at least one clip")
    if n_samples == 0:
        raise AudioError("audio: no samples")


def no_clip(audio: Any, name: str) -> AudioError:
    return AudioError(
        f"{name}: shape {tuple(audio.shape)}; expected one clip (N,), or a batch (B, N) on its "
        "own. Mix stereo down to one channel first"
    )


def chunks(
    audio: Any, chunk_length: float = CHUNK_LENGTH, check_range: bool = True
) -> Iterator[Any]:
    """Cut a clip (N,) into windows of chunk_length seconds, the last one shorter, in order.

    Floats give views; integers are scaled window by window. `stream` cuts a file, without reading
    all of it first.

    check_range: as for `log_mel`, which needs it again. Raises AudioError for a batch, and for a
    chunk_length that is not positive.
    """
    step = samples_of_chunk(chunk_length)
    audio = as_list(audio)
    if is_batch(audio):
        raise AudioError("chunks takes one clip, a 1-D array; given a batch")
    clip = samples_of_clip(audio, "audio")
    to_float(clip[:0], "audio")  # its type
    check_samples(clip, "audio", check_range)
    for start in range(0, len(clip), step):
        yield to_float(clip[start : start + step], "audio")


def samples_of_chunk(chunk_length: float) -> int:
    """Seconds to samples. Raises AudioError for a length that is not positive."""
    if not (math.isfinite(chunk_length) and round(chunk_length * SAMPLE_RATE) >= 1):
        raise AudioError(f"chunk_length={chunk_length} seconds; expected a positive length")
    return round(chunk_length * SAMPLE_RATE)


def fit_length(clips: Clips, pad_to: float | None, truncate: bool) -> int:
    """How many samples to pad the clips to. Raises AudioError if that would cut one."""
    return padded_length(max(len(clip) for clip in clips.arrays), pad_to, truncate)


def padded_length(longest: int, pad_to: float | None, truncate: bool) -> int:
    """`fit_length`, given how many samples the longest clip has."""
    length = longest if pad_to is None else samples_of(pad_to)
    if longest > length and not truncate:
        raise AudioError(
            f"a clip of {longest} samples ({longest / SAMPLE_RATE:.2f} s) does not fit into "
            f"pad_to={pad_to:g} s; take "
            "melfront.chunks(audio), or pass truncate=True to cut it, pad_to=None to keep it"
        )
    if length < MIN_SAMPLES:
        raise AudioError(
            f"{length} samples are too few to mirror at an edge; expected at least {MIN_SAMPLES}, "
            "or a longer pad_to"
        )
    return length


def samples_of(pad_to: float) -> int:
    """Seconds to samples. Raises AudioError for NaN and infinity."""
    if not math.isfinite(pad_to):
        raise AudioError(f"pad_to={pad_to}; expected seconds, or None for the clip's own length")
    return round(pad_to * SAMPLE_RATE)


def origin(
    clip: Path,
    audio: NDArray[np.float32],
    n_samples: int,
    check_range: bool,
    samples: int | None = None,
) -> dict[str, str]:
    """Metadata of a file made from the first n_samples of a clip (N,).

    samples: N, where `audio` is only its beginning. parity finds the clip by `clip` and recognises
    it by its digest.
    """
    about = {
        "clip": "sample" if clip == SAMPLE else str(clip),
        "clip_sha256": digest(audio[:n_samples]),
        "samples": str(len(audio) if samples is None else samples),
    }
    return about if check_range else about | {"check_range": "False"}


def digest(*arrays: NDArray[Any]) -> str:
    """SHA-256 of the arrays as float32, to tell clips and models apart."""
    flat = np.concatenate([array.ravel() for array in arrays])
    return hashlib.sha256(flat.astype("<f4").data).hexdigest()
