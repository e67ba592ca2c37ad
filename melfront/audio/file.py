"""Read an audio file, or a row of a data set, of any rate as 16 kHz mono."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkout import ROOT
from ..conventions import SAMPLE_RATE
from .waveform import NAMELESS, AudioError, bad_sample, first_bad, is_tensor, printable, to_float

# The clip that every command takes when none is given. Wherever a command or a function takes an
# audio file, and in what they print and write, its name is `sample`; ./sample is a file.
SAMPLE = ROOT / "reference_data" / "sample.flac"
MIN_RATE = 1000  # Hz; a header that says less is wrong, and would make a few samples a long clip


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
    is_row = isinstance(file, Mapping) or hasattr(file, "get_all_samples")
    name = NAMELESS
    if isinstance(file, (str, os.PathLike)):
        file = clip_path(file) if isinstance(file, str) and file else file
        name = printable(str(file)) or "''"
    source = (samples_of_row if is_row else read_file)(file, name)
    for block in resampled(source, name, check_range):
        if check_range:
            yield np.clip(block, -1.0, 1.0)
        elif not np.isfinite(block).all():
            raise AudioError(f"{name}: values so large that they overflow when it is resampled")
        else:
            yield block


def resampled(
    source: Iterator[tuple[int, NDArray[np.float32]]], name: str, check_range: bool
) -> Iterator[NDArray[np.float32]]:
    """Blocks (n,) at 16 kHz from blocks at any rate. Raises AudioError for a bad sample, and for a
    clip without samples."""
    clip = Resampled(name)
    for rate, block in source:
        n_good = first_bad(block, check_range)
        yield from clip.add(rate, block[:n_good])
        if n_good < len(block):
            raise bad_sample(block[n_good], f"{name}: sample {clip.n}")
    yield from clip.end()


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
        check_path(file, name)
    elif isinstance(file, (bytes, bytearray, memoryview)):
        file = io.BytesIO(file)
    elif not (hasattr(file, "seekable") and file.seekable() and isinstance(file.read(0), bytes)):
        raise AudioError(
            f"{type(file).__name__}: expected a path, the bytes of a file, or a file opened with "
            "'rb' that can seek"
        )
    return sound_file.blocks(file, name)


def check_path(file: str | os.PathLike[str], name: str) -> None:
    """Raise an error for what is no file. A pipe is not opened: that would wait for its writer."""
    if not os.path.exists(file):
        raise FileNotFoundError(f"{name}: no such file")
    if not os.path.isfile(file):
        kind = "folder" if os.path.isdir(file) else "pipe, a socket or a device"
        raise AudioError(f"{name}: a {kind}, not an audio file; name a file")
    if not os.access(file, os.R_OK):
        raise PermissionError(f"{name}: no permission to read it")


def clip_path(name: str) -> Path:
    """The path of a clip given by name: "sample", "signal:NAME", or a path itself."""
    if name.startswith("signal:"):
        return SAMPLE.parent / "signals" / f"{name.removeprefix('signal:')}.wav"
    return SAMPLE if name == "sample" else Path(name)


def resample(mono: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """(N,) float32 at `rate` Hz -> (N * 16000 / rate,) float32 at 16 kHz, by soxr's HQ."""
    clip = Resampled("audio")
    return np.concatenate([*clip.add(rate, mono), *clip.end()])


class Resampled:
    """Blocks of a clip at any rate to blocks at 16 kHz, by soxr's HQ."""

    def __init__(self, name: str) -> None:
        self.name, self.rate = name, 0
        self.n = self.n_out = 0  # samples given and returned

    def add(self, rate: int, mono: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """What another block (n,) gives."""
        if rate != self.rate:  # between blocks only in a file that was joined from several
            yield from self.flush()
            if rate < MIN_RATE:
                raise AudioError(
                    f"{self.name}: a sampling rate of {rate} Hz; expected {MIN_RATE} at least. If "
                    "the header is wrong, convert it: ffmpeg -i IN OUT.wav"
                )
            self.rate = rate
            if rate != SAMPLE_RATE:
                import soxr

                self.soxr = soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ")
        self.n += len(mono)
        yield from self.counted(mono if rate == SAMPLE_RATE else self.soxr.resample_chunk(mono))

    def flush(self) -> Iterator[NDArray[np.float32]]:
        if self.rate not in (0, SAMPLE_RATE):
            yield from self.counted(self.soxr.resample_chunk(np.empty(0, np.float32), last=True))

    def counted(self, out: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        self.n_out += len(out)
        if len(out):
            yield out

    def end(self) -> Iterator[NDArray[np.float32]]:
        """What was held back. Raises AudioError if nothing came, of a clip without samples."""
        yield from self.flush()
        if not self.n:
            raise AudioError(f"{self.name}: no samples")
        if not self.n_out:
            raise AudioError(
                f"{self.name}: {self.n} samples at {self.rate} Hz are less than one at 16 kHz"
            )
