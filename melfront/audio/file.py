"""Read an audio file, or a row of a data set, of any rate as 16 kHz mono."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkout import ROOT
from ..conventions import SAMPLE_RATE
from .waveform import AudioError, bad_sample, first_bad, is_tensor, to_float

# The clip that every command takes when none is given. Wherever a command or a function takes an
# audio file, and in what they print and write, its name is `sample`; ./sample is a file.
SAMPLE = ROOT / "reference_data" / "sample.flac"


def load_audio(file: Any, check_range: bool = True) -> NDArray[np.float32]:
    """Read an audio file, or a row of a data set, as 16 kHz mono.

    file: a path, the file's bytes, or an open binary file; wav, flac, mp3, ogg and whatever else
        libsndfile reads. "sample" is the clip of speech that comes with this project, "signal:NAME"
        a clip of `reference_data/signals`. A wav written into a pipe, whose header does not know
        its length, is read to its end.
        Or a row of a `datasets` audio column: a dict with `bytes` or a `path`, a dict with `array`
        (N,) and `sampling_rate`, or a torchcodec decoder.
    check_range: False takes floats of another scale, such as unit variance, as they are.

    Channels are averaged, other sampling rates resampled with soxr (HQ), and samples that overshoot
    full scale by that are clipped, as they would be in a 16-bit file.

    Returns (N,) float32, in [-1, 1] unless check_range=False. Raises AudioError for a file that is
    not audio, is empty, ends before its header says, or holds NaN or infinity; FileNotFoundError,
    PermissionError.
    """
    clip = bytearray()  # it grows in place
    for block in at_16_khz(file, check_range):
        clip += block.data
    return np.frombuffer(clip, np.float32)


def windows_of(file: Any, n_samples: int, check_range: bool) -> Iterator[NDArray[np.float32]]:
    """`load_audio(file)` in pieces of n_samples, the last one shorter, each read when it is due."""
    size = n_samples * np.dtype(np.float32).itemsize
    pending = bytearray()
    for block in at_16_khz(file, check_range):
        pending += block.data
        while len(pending) >= size:
            yield np.frombuffer(pending[:size], np.float32)
            del pending[:size]
    if pending:
        yield np.frombuffer(pending, np.float32)


def at_16_khz(file: Any, check_range: bool) -> Iterator[NDArray[np.float32]]:
    """The clip in blocks (n,). What is wrong with it is raised after the samples before it."""
    if isinstance(file, Mapping) and "array" not in file:
        file = file_of(file)
    if isinstance(file, str) and file:
        file = clip_path(file)
    name = str(file) if isinstance(file, (str, os.PathLike)) else "the data given"
    is_row = isinstance(file, Mapping) or hasattr(file, "get_all_samples")
    resampler, n, n_out, rate = None, 0, 0, SAMPLE_RATE
    for rate, block in (samples_of_row if is_row else read_file)(file, name):
        resampler = resampler or resampler_of(rate)
        n_good = first_bad(block, check_range)
        n_out += len(out := resampler(block[:n_good], False))
        if len(out):
            yield np.clip(out, -1.0, 1.0) if check_range else out
        if n_good < len(block):
            raise bad_sample(block[n_good], f"{name}: sample {n + n_good}")
        n += len(block)
    if not resampler:
        raise AudioError(f"{name}: no samples")
    n_out += len(out := resampler(np.empty(0, np.float32), True))
    if not n_out:
        raise AudioError(f"{n} samples at {rate} Hz are less than one sample at 16 kHz")
    if len(out):
        yield np.clip(out, -1.0, 1.0) if check_range else out


def file_of(row: Mapping[str, Any]) -> Any:
    """The bytes or the path of a row that was not decoded."""
    if file := row.get("bytes") or row.get("path"):
        return file
    raise AudioError(
        f"a dict without 'array', and without bytes or a path to read; its keys are {sorted(row)}"
    )


def samples_of_row(row: Any, name: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The sampling rate and the mono samples (N,) of a decoded row."""
    if isinstance(row, Mapping):
        samples, rate = row["array"], row.get("sampling_rate")
        if rate is None:
            raise AudioError(f"{name}: a dict with 'array' and without 'sampling_rate'; add it")
    else:
        samples, rate = decode(row)
    array = samples.numpy(force=True) if is_tensor(samples) else np.asarray(samples)
    if array.ndim != 1:
        raise AudioError(f"{name}: shape {array.shape}; expected (N,): mix its channels down first")
    for start in range(0, len(array), SAMPLE_RATE):
        yield int(rate), to_float(array[start : start + SAMPLE_RATE], name).astype(np.float32)


def decode(decoder: Any) -> tuple[Any, int]:
    """The mean of the channels, a tensor (N,), and the sampling rate of torchcodec's decoder."""
    samples = decoder.get_all_samples()
    return samples.data.mean(dim=0), samples.sample_rate  # (channels, N) -> (N,)


def read_file(file: Any, name: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The sampling rate and the mean of a file's channels, in blocks (n,)."""
    from . import sound_file

    if isinstance(file, (str, os.PathLike)):
        if not os.path.exists(file):
            raise FileNotFoundError(f"{name}: no such file")
        if not os.access(file, os.R_OK):
            raise PermissionError(f"{name}: no permission to read it")
    return sound_file.blocks(io.BytesIO(file) if isinstance(file, bytes) else file, name)


def clip_path(name: str) -> Path:
    """The path of a clip given by name: "sample", "signal:NAME", or a path itself."""
    if name.startswith("signal:"):
        return SAMPLE.parent / "signals" / f"{name.removeprefix('signal:')}.wav"
    return SAMPLE if name == "sample" else Path(name)


def resample(mono: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """(N,) float32 at `rate` Hz -> (N * 16000 / rate,) float32 at 16 kHz, by soxr's HQ."""
    return resampler_of(rate)(mono, True)


def resampler_of(rate: int) -> Callable[[NDArray[np.float32], bool], NDArray[np.float32]]:
    """Resamples the blocks of a clip one after another, given whether one is the last."""
    if rate == SAMPLE_RATE:
        return lambda mono, last: mono
    import soxr

    return soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ").resample_chunk
