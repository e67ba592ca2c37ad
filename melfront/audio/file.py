"""Read an audio file, or a row of a data set, of any rate as 16 kHz mono."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkout import ROOT
from ..conventions import SAMPLE_RATE
from .waveform import AudioError, check_samples, is_tensor, to_float

# The clip that every command takes when none is given. Wherever a command or a function takes an
# audio file, and in what they print and write, its name is `sample`; ./sample is a file.
SAMPLE = ROOT / "reference_data" / "sample.flac"
# What libsndfile notes about a file that ends before its header says. A program that writes into a
# pipe cannot go back to the header, and writes a size from UNKNOWN_SIZE on: 0xFFFFFFFF, 0x7FFFF000.
CUT_SHORT = re.compile(
    r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE
)
UNKNOWN_SIZE = 0x7FFFF000


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
    if isinstance(file, Mapping) and "array" not in file:
        file = file_of(file)
    if isinstance(file, str) and file:
        file = clip_path(file)
    name = str(file) if isinstance(file, (str, os.PathLike)) else "the data given"
    is_row = isinstance(file, Mapping) or hasattr(file, "get_all_samples")
    mono, rate = (samples_of_row if is_row else read_file)(file, name)
    check_samples(mono, name, check_range)
    audio = resample(mono, rate)
    return np.clip(audio, -1.0, 1.0) if check_range else audio


def file_of(row: Mapping[str, Any]) -> Any:
    """The bytes or the path of a row that was not decoded."""
    if file := row.get("bytes") or row.get("path"):
        return file
    raise AudioError(
        f"a dict without 'array', and without bytes or a path to read; its keys are {sorted(row)}"
    )


def samples_of_row(row: Any, name: str) -> tuple[NDArray[np.float32], int]:
    """The mono samples (N,) of a decoded row, and their sampling rate."""
    if isinstance(row, Mapping):
        samples, rate = row["array"], row.get("sampling_rate")
        if rate is None:
            raise AudioError(f"{name}: a dict with 'array' and without 'sampling_rate'; add it")
    else:
        samples, rate = decode(row)
    array = to_float(samples.numpy(force=True) if is_tensor(samples) else np.asarray(samples), name)
    if array.ndim != 1:
        raise AudioError(f"{name}: shape {array.shape}; expected (N,): mix its channels down first")
    return array.astype(np.float32), int(rate)


def decode(decoder: Any) -> tuple[Any, int]:
    """The mean of the channels, a tensor (N,), and the sampling rate of torchcodec's decoder."""
    samples = decoder.get_all_samples()
    return samples.data.mean(dim=0), samples.sample_rate  # (channels, N) -> (N,)


def read_file(file: Any, name: str) -> tuple[NDArray[np.float32], int]:
    """The mean of a file's channels (N,), and its sampling rate."""
    import soundfile

    if isinstance(file, (str, os.PathLike)):
        if not os.path.exists(file):
            raise FileNotFoundError(f"{name}: no such file")
        if not os.access(file, os.R_OK):
            raise PermissionError(f"{name}: no permission to read it")
    source = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        mono, rate, missing = read_mono(source)
        if not len(mono) and (piped := without_length(source)):
            mono, rate, missing = read_mono(piped)
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
        raise AudioError(
            f"{name}: not an audio file that libsndfile can read ({error}); convert it to wav or "
            "flac"
        ) from error
    if missing:
        raise AudioError(
            f"{name} is cut short: it has {len(mono)} samples, {missing} fewer than its header "
            "says. Copy it again, or keep what is there: ffmpeg -i IN OUT.wav"
        )
    return mono, rate


def clip_path(name: str) -> Path:
    """The path of a clip given by name: "sample", "signal:NAME", or a path itself."""
    if name.startswith("signal:"):
        return SAMPLE.parent / "signals" / f"{name.removeprefix('signal:')}.wav"
    return SAMPLE if name == "sample" else Path(name)


def read_mono(source: Any) -> tuple[NDArray[np.float32], int, int]:
    """The mean of the channels (N,), the sampling rate, and how many samples are missing."""
    import soundfile

    with soundfile.SoundFile(source) as sound:
        if sound.frames > 1 << 40:
            raise ValueError("its header does not say how many samples it has")
        promised, rate, notes = sound.frames, sound.samplerate, sound.extra_info
        mono = sound.read(dtype="float32", always_2d=True).mean(axis=1)  # (N,)
    missing = max(0, promised - len(mono))
    if len(mono) and (cut := CUT_SHORT.search(notes)) and int(cut[1]) < UNKNOWN_SIZE:
        size, there = int(cut[1]), int(cut[2])
        missing = math.ceil((size - there) / (round(there / len(mono)) or there / len(mono)))
    return mono, rate, missing


def without_length(source: Any) -> io.BytesIO | None:
    """A wav whose header says 0 bytes though samples follow, with "unknown" instead; else None.

    A program that was stopped before it went back to the header leaves such a file.
    """
    if isinstance(source, (str, os.PathLike)):
        data = Path(source).read_bytes()
    else:
        source.seek(0)
        data = source.read()
    header, _, samples = data.partition(b"data" + bytes(4))
    if not header.startswith(b"RIFF") or not samples or is_chunks(samples):
        return None
    return io.BytesIO(header + b"data\xff\xff\xff\xff" + samples)


def is_chunks(data: bytes) -> bool:
    """Are these the chunks of a RIFF file: a printable name, a size, as many bytes, padded to 2?"""
    at = 0
    while at + 8 <= len(data) and all(32 <= c < 127 for c in data[at : at + 4]):  # such as "LIST"
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return at in (len(data), len(data) + 1)


def resample(mono: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """(N,) float32 at `rate` Hz -> (N * 16000 / rate,) float32 at 16 kHz, by soxr's HQ."""
    if rate == SAMPLE_RATE:
        return mono
    import soxr

    resampled: NDArray[np.float32] = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    if not len(resampled):
        raise AudioError(f"{len(mono)} samples at {rate} Hz are less than one sample at 16 kHz")
    return resampled
