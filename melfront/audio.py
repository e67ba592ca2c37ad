"""Audio in: read a file, resample it, and check a waveform before anything is computed from it."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .conventions import CHUNK_LENGTH, N_FFT, SAMPLE_RATE

# The clip that every command takes when none is given. `sample` is its name wherever an audio file
# is asked for, and in what the commands print and write; ./sample is a file of that name.
SAMPLE = Path(__file__).resolve().parents[1] / "reference_data" / "sample.flac"
# The extractor needs samples 1 .. 200 to mirror the left edge.
MIN_SAMPLES = N_FFT // 2 + 1
# Float audio lies in [-1, 1]. Loud masters overshoot a little; int16 that was cast to float but
# not divided by 32768 overshoots by thousands. Ten (20 dB too loud) tells the two apart.
MAX_AMPLITUDE = 10.0
MAX_CHANNELS = 8
# What libsndfile notes of a file that ends before its header says. A size from here on is what a
# program writes into a pipe, where it cannot go back to the header: 0xFFFFFFFF, 0x7FFFF000 ...
CUT_SHORT = re.compile(
    r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE
)
UNKNOWN_SIZE = 0x7FFFF000


class AudioError(ValueError):
    """The audio given cannot be what the caller means; the message says what to do about it."""


class Clips(NamedTuple):
    """One clip or several, each 1-D floating point, all NumPy or all torch."""

    arrays: list[Any]
    batched: bool

    def cut(self, length: int) -> Clips:
        return Clips([clip[:length] for clip in self.arrays], self.batched)

    def numpy(self) -> Clips:
        """The same in NumPy, for what computes in nothing else."""
        arrays = [clip.detach().cpu().numpy() if is_tensor(clip) else clip for clip in self.arrays]
        return Clips(arrays, self.batched)


def load_audio(
    file: str | os.PathLike[str] | bytes | BinaryIO, check_range: bool = True
) -> NDArray[np.float32]:
    """Read an audio file as 16 kHz mono.

    file: a path, the file's bytes, or an open binary file; wav, flac, mp3, ogg and whatever else
    libsndfile reads; or "sample", the clip of speech that comes with this project, or
    "signal:NAME", a clip of `reference_data/signals`. Channels are averaged, other sampling rates
    resampled with soxr (HQ), and what overshoots full scale in doing so is clipped, as it would be
    in a 16-bit file. Of a wav whose header was written before its length was known, as into a pipe,
    all that is there is taken. check_range=False is for a file of floats of another scale, such as
    unit variance, and neither refuses nor clips.

    Returns (N,) float32, in [-1, 1] unless check_range=False. Raises AudioError for what is not
    audio, is empty, ends before its header says, or holds NaN or infinity; FileNotFoundError for a
    path that is not there, PermissionError for one not yours.
    """
    import soundfile

    if isinstance(file, str) and file:
        file = clip_path(file)
    name = str(file) if isinstance(file, (str, os.PathLike)) else "the data given"
    if isinstance(file, (str, os.PathLike)) and not os.path.exists(file):
        raise FileNotFoundError(f"{name}: no such file")
    if isinstance(file, (str, os.PathLike)) and not os.access(file, os.R_OK):
        raise PermissionError(f"{name}: you may not read this file")
    source = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        mono, rate, missing = read_mono(source)
        if not len(mono):
            mono, rate, missing = read_mono(without_length(source))
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
        raise AudioError(
            f"{name}: no whole audio file that libsndfile can read ({error}); convert it to wav or "
            "flac"
        ) from error
    if missing:
        raise AudioError(
            f"{name} is cut short: it has {len(mono)} samples, {missing} fewer than its header "
            "says. Copy it again, or keep what is there: ffmpeg -i IN OUT.wav"
        )
    check_samples(mono, name, check_range)
    audio = resample(mono, rate)
    return np.clip(audio, -1.0, 1.0) if check_range else audio


def read_mono(source: Any) -> tuple[NDArray[np.float32], int, int]:
    """The channels' mean (N,), the sampling rate, and how many samples the header has too many."""
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


def without_length(source: Any) -> Any:
    """A wav that says it has no samples as one of unknown length, where some follow all the same.

    So writes a program that never came back to the header. A file of anything else is returned.
    """
    if isinstance(source, (str, os.PathLike)):
        data = Path(source).read_bytes()
    else:
        source.seek(0)
        data = source.read()
    chunks = riff_chunks(data, 12) if data[:4] == b"RIFF" else []
    start = next((at for name, at, size in chunks if (name, size) == (b"data", 0)), len(data))
    after = riff_chunks(data, start)
    if start == len(data) or (after and after[-1][1] + after[-1][2] == len(data)):
        return source if isinstance(source, (str, os.PathLike)) else io.BytesIO(data)
    return io.BytesIO(data[: start - 4] + b"\xff\xff\xff\xff" + data[start:])


def riff_chunks(data: bytes, at: int) -> list[tuple[bytes, int, int]]:
    """Name, start and size of the chunks that follow each other from `at` on."""
    found = []
    while at + 8 <= len(data) and all(32 <= c < 127 for c in data[at : at + 4]):  # such as "fmt "
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        found.append((data[at : at + 4], at + 8, size))
        at += 8 + size + size % 2
    return found


def clip_path(name: str) -> Path:
    """The file that is meant: of the sample clip, of a signal of `reference_data`, or a path."""
    if name.startswith("signal:"):
        return SAMPLE.parent / "signals" / f"{name.removeprefix('signal:')}.wav"
    return SAMPLE if name == "sample" else Path(name)


def resample(mono: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """(N,) float32 at `rate` Hz -> (N * 16000 / rate,) float32 at 16 kHz, by soxr's HQ."""
    if rate == SAMPLE_RATE:
        return mono
    import soxr

    resampled: NDArray[np.float32] = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    if not len(resampled):
        raise AudioError(f"{len(mono)} samples at {rate} Hz are less than one sample at 16 kHz")
    return resampled


def chunks(
    audio: Any, chunk_length: float = CHUNK_LENGTH, check_range: bool = True
) -> Iterator[Any]:
    """The windows of `chunk_length` seconds of a clip (N,) in turn, the last one shorter.

    Views of the array or tensor given. check_range: as of `log_mel`, which needs it again. Raises
    AudioError for anything but one clip.
    """
    clips = as_clips(audio, check_range=check_range)
    if clips.batched:
        raise AudioError("chunks takes one clip, a 1-D array; given a batch")
    (clip,) = clips.arrays
    step = round(chunk_length * SAMPLE_RATE)
    if step < 1:
        raise AudioError(f"chunk_length={chunk_length} seconds; expected a positive length")
    for start in range(0, len(clip), step):
        yield clip[start : start + step]


def fit_length(clips: Clips, pad_to: float | None, truncate: bool) -> int:
    """How many samples the clips are padded to. Raises AudioError where that would cut one."""
    return padded_length(max(len(clip) for clip in clips.arrays), pad_to, truncate)


def padded_length(longest: int, pad_to: float | None, truncate: bool) -> int:
    """`fit_length` of clips of which the longest has so many samples."""
    length = longest if pad_to is None else samples_of(pad_to)
    if longest > length and not truncate:
        raise AudioError(
            f"a clip of {longest} samples ({longest / SAMPLE_RATE:.2f} s) does not fit into "
            f"pad_to={pad_to:g} s; take "
            "melfront.chunks(audio), or pass truncate=True to cut it, pad_to=None to keep it"
        )
    if length < MIN_SAMPLES:
        raise AudioError(
            f"{length} samples are too few to mirror the edge of; expected at least {MIN_SAMPLES}, "
            "or a longer pad_to"
        )
    return length


def samples_of(pad_to: float) -> int:
    if not math.isfinite(pad_to):
        raise AudioError(f"pad_to={pad_to}; expected seconds, or None for the clip's own length")
    return round(pad_to * SAMPLE_RATE)


def digest(*arrays: NDArray[Any]) -> str:
    """SHA-256 of arrays as float32, to tell clips and models apart."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return sha.hexdigest()


def is_tensor(x: object) -> bool:
    """Is x a torch tensor? Asked without importing torch: who has a tensor has imported it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_traced(tensor: Any) -> bool:
    """Is the tensor one whose values cannot be looked at, because a tool traces what is done to it?

    torch.compile, torch.export, torch.jit.trace, vmap, torch.func: each gives a stand-in, or keeps
    what was done to this clip for all others.
    """
    import torch

    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return True
    try:
        tensor.data_ptr()
    except RuntimeError:  # a stand-in has no memory
        return True
    return False


def as_clips(audio: Any, sampling_rate: int | None = None, check_range: bool = True) -> Clips:
    """One clip or a batch, from whatever people hold audio in, checked.

    audio: (N,) array or tensor, one clip; (B, N), or (N,) each of a list, a batch; a list of
    numbers. A dict with `array` and `sampling_rate`, one of file `bytes` or a `path`, which is read
    as `load_audio` does, or a torchcodec decoder, as a `datasets` audio column gives them, or a
    list of those. Columns of pandas, `datasets`, pyarrow and Ray, object arrays and other sequences
    are what the list of their items is. Floats are taken as they are, integer PCM is scaled by its
    type. check_range=False lets values beyond [-10, 10] through; NaN and infinity never are.
    Raises AudioError, TypeError for what is none of these.
    """
    check_rate(sampling_rate)
    audio = as_list(audio)
    if isinstance(audio, (list, tuple)) and not all(isinstance(item, Real) for item in audio):
        clips = [as_clip(item, f"clip {i}", check_range) for i, item in enumerate(audio)]
        if len({is_tensor(clip) for clip in clips}) > 1:
            raise AudioError("a batch of both NumPy arrays and torch tensors; give one kind")
        return Clips(clips, batched=True)
    if getattr(audio, "ndim", 1) != 2:
        return Clips([as_clip(audio, "audio", check_range)], batched=False)
    check_shape(audio)
    clips = [as_clip(row, f"clip {i}", check_range) for i, row in enumerate(audio)]
    return Clips(clips, batched=True)


def as_list(audio: Any) -> Any:
    """A column, an object array or another sequence as a list or an array; all else as it is."""
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
        except TypeError:  # no memory of numbers
            return list(audio) if isinstance(audio, Iterable) else audio
        if audio.format == "B":
            return audio.tobytes()  # of a file, and refused as that
    audio = np.asarray(audio)
    return audio.tolist() if audio.dtype == object and audio.ndim else audio


def check_shape(audio: Any) -> None:
    """Raise AudioError for an array that is neither a clip (N,) nor a batch of clips (B, N).

    A size that is not known under a trace, and no int, is taken to be right.
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
        raise AudioError("a batch of no clips; expected at least one")
    if n_samples == 0:
        raise AudioError("audio: no samples")


def no_clip(audio: Any, name: str) -> AudioError:
    return AudioError(
        f"{name}: shape {tuple(audio.shape)}; expected one clip (N,), or a batch (B, N) on its "
        "own. Mix stereo down to one channel first"
    )


def as_clip(audio: Any, name: str, check_range: bool) -> Any:
    """One clip as a checked 1-D floating-point array or tensor."""
    audio = as_list(audio)
    if isinstance(audio, Mapping):
        audio = of_dict(audio, name)
    elif hasattr(audio, "get_all_samples"):  # torchcodec.decoders.AudioDecoder
        samples = audio.get_all_samples()
        check_rate(samples.sample_rate)
        audio = samples.data.mean(dim=0)  # (channels, N) -> (N,)
    if isinstance(audio, (str, bytes, bytearray, os.PathLike)):
        raise TypeError(f"{name}: expected a waveform; read a file with melfront.load_audio(...)")
    if not is_tensor(audio):
        try:
            audio = np.asarray(audio)
        except ValueError as error:  # a list of lists of unlike lengths
            raise AudioError(f"{name}: expected one clip (N,), not a list of several") from error
    if audio.ndim != 1:
        raise no_clip(audio, name)
    audio = to_float(audio, name)
    check_samples(audio, name, check_range)
    return audio


def of_dict(audio: Mapping[str, Any], name: str) -> Any:
    """The waveform of a row of a `datasets` audio column; one that is not decoded is read."""
    if "array" in audio:
        check_rate(audio.get("sampling_rate"))
        return as_list(audio["array"])
    file = audio.get("bytes") or audio.get("path")
    if not file:
        raise AudioError(
            f"{name}: a dict without 'array', and without bytes or a path to read; its keys are "
            f"{sorted(audio)}"
        )
    try:
        return load_audio(file)
    except AudioError as error:
        raise AudioError(f"{name}: {error}") from error


def to_float(audio: Any, name: str) -> Any:
    """Integer PCM to [-1, 1) by the range of its type; floats as they are, float16 as float32."""
    # NumPy's name is the same for either byte order.
    dtype = str(audio.dtype).removeprefix("torch.") if is_tensor(audio) else audio.dtype.name
    if dtype in ("float32", "float64"):
        return audio
    if dtype in ("float16", "bfloat16"):
        return audio.float() if is_tensor(audio) else audio.astype(np.float32)
    if dtype not in ("int8", "uint8", "int16", "int32"):
        raise AudioError(
            f"{name}: dtype {dtype} is neither floating point nor 8, 16 or 32-bit PCM; convert it "
            "to float32 in [-1, 1]"
        )
    # Exact up to 24 bits; what 32 bits hold beyond that is 140 dB down.
    audio = audio.float() if is_tensor(audio) else audio.astype(np.float32)
    full_scale = {"int8": 2.0**7, "uint8": 2.0**7, "int16": 2.0**15, "int32": 2.0**31}[dtype]
    return (audio - 128 if dtype == "uint8" else audio) / full_scale


def check_rate(sampling_rate: int | None) -> None:
    if sampling_rate is not None and sampling_rate != SAMPLE_RATE:
        raise AudioError(
            f"sampling rate {sampling_rate} Hz; Whisper expects {SAMPLE_RATE}. Resample first: "
            "melfront.load_audio(file) does, and datasets' cast_column(Audio(sampling_rate=16000))"
        )


def check_samples(clip: Any, name: str, check_range: bool = True) -> None:
    """Raise AudioError for an empty clip, one with NaN or infinity, or one far outside [-1, 1].

    check_range=False skips the last of these.

    A tensor on another device than the CPU, or under a trace, is only checked for being empty:
    looking at its values would make the device wait, and end the trace.
    """
    if len(clip) == 0:
        raise AudioError(f"{name}: no samples")
    if is_tensor(clip):
        if clip.device.type != "cpu" or is_traced(clip):
            return
        least, most = (float(value) for value in clip.detach().aminmax())
        clip = clip.detach().numpy()
    else:
        least, most = clip.min(), clip.max()
    peak = max(most, -least)  # NaN and infinity both come through max and min
    if peak <= MAX_AMPLITUDE if check_range else math.isfinite(peak):
        return
    bad = np.flatnonzero(~np.isfinite(clip))
    if len(bad):
        raise AudioError(
            f"{name}: sample {bad[0]} is {clip[bad[0]]} ({len(bad)} of {len(clip)} are not finite)"
        )
    raise AudioError(
        f"{name}: values up to {peak:.6g}, far outside [-1, 1]; this looks like integer PCM that "
        "was cast to float. Divide by its full scale (32768 for int16), or leave it in integers, "
        "which are scaled by their type; check_range=False takes audio of unit variance as it is"
    )
