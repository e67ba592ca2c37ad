"""`melfront benchmarks frontend`: log-mel features, ours and those of other libraries.

# N samples  M mel bins  F frames
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

import melfront
from melfront.audio import SAMPLE
from melfront.conventions import HOP_LENGTH, N_FRAMES, N_SAMPLES
from melfront.parity.pages import libraries

from ..race import race
from .own_process import peak
from .results import AGAIN, Row, Table, cores, errors, to_json

N_MELS = 128
TORCH, NUMPY = "melfront, torch", "melfront, NumPy"
ROOF = "its FFT alone"
Array = NDArray[Any]


def speech(n_samples: int) -> Array:
    """The sample clip, repeated to this length: (n,) float32."""
    sample = melfront.load_audio("sample")
    return np.tile(sample, -(-n_samples // len(sample)))[:n_samples].copy()


# --- the peers: each a function of a clip (N,) that gives features (M, F) -------------------------


def ours_torch(clip: Array) -> Any:
    import torch

    with torch.inference_mode():
        return melfront.log_mel(torch.from_numpy(clip), n_mels=N_MELS)


def ours_numpy(clip: Array) -> Array:
    return melfront.log_mel(clip, n_mels=N_MELS)


def transformers(clip: Array) -> Array:
    return libraries.transformers([clip], N_SAMPLES, N_MELS)[0]


def transformers_numpy(clip: Array) -> Array:
    return libraries.transformers_numpy([clip], N_SAMPLES, N_MELS)[0]


def openai(clip: Array) -> Array:
    import torch
    import whisper

    return libraries.openai(whisper.pad_or_trim(torch.from_numpy(clip)), N_MELS)


def faster_whisper(clip: Array) -> Array:
    # `padding` adds zeros after the clip: with it the last frame is one too many, as documented.
    padding = HOP_LENGTH + N_SAMPLES - len(clip)
    return libraries.faster_whisper(clip, N_MELS, padding)[:, :N_FRAMES]


def librosa(clip: Array) -> Array:
    from librosa.util import fix_length

    return libraries.librosa(fix_length(clip, size=N_SAMPLES), N_MELS, pad_mode="reflect")


def asrfront(clip: Array) -> Array:
    return libraries.asrfront(clip, N_MELS)


def hf_processors(clip: Array) -> Array:
    return libraries.hf_processors([clip], N_SAMPLES, N_MELS)[0]


# Each with the packages that it needs.
PEERS: dict[str, tuple[tuple[str, ...], Callable[[Any], Any]]] = {
    TORCH: ((), ours_torch),
    NUMPY: ((), ours_numpy),
    "transformers, torch": (("transformers",), transformers),
    "transformers, torch" + AGAIN: (("transformers",), transformers),
    "transformers, NumPy": (("transformers",), transformers_numpy),
    "openai-whisper": (("openai-whisper",), openai),
    "faster-whisper": (("faster-whisper",), faster_whisper),
    "librosa": (("librosa",), librosa),
    "asrfront": (("asrfront",), asrfront),
    "hf-processors-rs": (("hf-processors-rs",), hf_processors),
}


def installed(*packages: str) -> bool:
    try:
        return all(metadata.version(package) for package in packages)
    except metadata.PackageNotFoundError:
        return False


def peers() -> dict[str, Callable[[Any], Any]]:
    return {name: run for name, (packages, run) in PEERS.items() if installed(*packages)}


def roof(clip: Array) -> Callable[[], object]:
    """The Fourier transforms of the frames that the clip reaches, already windowed."""
    import torch

    n_frames = min(3000, (len(clip) + 200) // 160 + 1)
    frames = torch.zeros(n_frames, 400)
    return lambda: torch.fft.rfft(frames)


# --- the works ----------------------------------------------------------------------------------


def raced(
    runs: Mapping[str, Callable[[], Any]],
    truth: Array,
    seconds: float,
    roofs: Mapping[str, Callable[[], object]] | None = None,
) -> list[Row]:
    """The rows of a table: measure every contestant's error against the truth, then time all."""
    error = {name: errors(np.asarray(run()), truth) for name, run in runs.items()}
    times = race({**runs, **(roofs or {})}, seconds)
    return [Row(name, spent, *error.get(name, ())) for name, spent in times.items()]


def one_clip(seconds: float, threads: int, n_samples: int, work: str) -> Table:
    clip = speech(n_samples)
    truth = melfront.oracle.log_mel(clip, n_mels=N_MELS)
    runs = {name: partial(run, clip) for name, run in peers().items()}
    rows = raced(runs, truth, seconds, {ROOF: roof(clip)})
    return Table(f"log-mel, {work}, {cores(threads)}", rows, [TORCH, NUMPY])


def batch(seconds: float, threads: int, n_clips: int = 32) -> Table:
    import torch

    clips = [np.roll(speech(480_000), 1009 * i) for i in range(n_clips)]
    truth = melfront.oracle.log_mel(clips, n_mels=N_MELS)
    tensors = [torch.from_numpy(clip) for clip in clips]

    def ours() -> Any:
        with torch.inference_mode():
            return melfront.log_mel(tensors, n_mels=N_MELS)

    runs: dict[str, Callable[[], Any]] = {
        TORCH: ours,
        NUMPY: lambda: melfront.log_mel(clips, n_mels=N_MELS),
    }
    if installed("transformers"):
        extract = partial(libraries.transformers, clips, N_SAMPLES, N_MELS)
        runs["transformers, torch"] = extract
        runs["transformers, torch" + AGAIN] = extract
    if installed("asrfront"):
        from asrfront.whisper import log_mel_batch

        runs["asrfront"] = lambda: log_mel_batch(clips, n_mels=N_MELS, n_threads=threads)
    rows = raced(runs, truth, seconds)
    return Table(f"log-mel, {n_clips} clips of 30 s, {cores(threads)}", rows, [TORCH, NUMPY])


def hour(seconds: float, threads: int) -> Table:
    """An hour against 120 times 30 s, and the memory it takes on top of its result."""
    import torch

    clip, short = speech(3600 * 16_000), speech(480_000)
    tensors = torch.from_numpy(clip), torch.from_numpy(short)
    options: dict[str, Any] = {"n_mels": N_MELS, "pad_to": None}
    # The hour repeats 8.1 s, so its loudest value is in its first minute, and the truth of that
    # minute is the hour's, but for the last frame, which has another right neighbour.
    truth = melfront.oracle.log_mel(clip[: 60 * 16_000], **options)[:, :-1]
    truth_brief = melfront.oracle.log_mel(short, **options)
    runs: dict[str, Callable[[], Any]] = {}
    error, lines = {}, []
    for name, (long, brief) in {TORCH: tensors, NUMPY: (clip, short)}.items():

        def run(audio: Any) -> Any:
            with torch.inference_mode():
                return melfront.log_mel(audio, **options)

        error[f"{name}, 30 s"] = errors(np.asarray(run(brief)), truth_brief)
        before = peak(reset=True)
        result = run(long)
        beyond = peak() - before - result.nbytes
        error[f"{name}, one hour"] = errors(np.asarray(result)[:, : truth.shape[1]], truth)
        lines.append(
            f"{name}: {beyond / 1e6:.0f} MB on top of the {result.nbytes / 1e6:.0f} MB result"
        )
        del result
        runs[f"{name}, one hour"] = partial(run, long)
        runs[f"{name}, 30 s"] = partial(run, brief)
    times = race(runs, seconds)
    for name in (TORCH, NUMPY):
        ratio = np.median(times[f"{name}, one hour"]) / np.median(times[f"{name}, 30 s"]) / 120
        lines.append(f"{name}: an hour takes {ratio:.2f} of 120 times 30 s")
    rows = [Row(name, spent, *error[name]) for name, spent in times.items()]
    return Table(f"log-mel, one hour, {cores(threads)}", rows, [], lines)


def growth(seconds: float, threads: int) -> list[Table]:
    """Clips from 0.5 s to 5 min at their own length, and batches of 8.1 s in 30 s."""
    import torch

    tables = []
    for length in (0.5, 1.0, 5.0, 30.0, 300.0):
        clip = speech(int(length * 16_000))
        tensor = torch.from_numpy(clip)
        options: dict[str, Any] = {"n_mels": N_MELS, "pad_to": None}
        runs: dict[str, Callable[[], Any]] = {
            TORCH: partial(melfront.log_mel, tensor, **options),
            NUMPY: partial(melfront.log_mel, clip, **options),
        }
        if installed("openai-whisper"):
            import whisper

            runs["openai-whisper"] = partial(whisper.log_mel_spectrogram, tensor, N_MELS)
            runs["openai-whisper" + AGAIN] = partial(whisper.log_mel_spectrogram, tensor, N_MELS)
        if installed("asrfront"):
            from asrfront.whisper import log_mel

            runs["asrfront"] = partial(log_mel, clip, n_mels=N_MELS, pad_or_trim=False)
        rows = raced(runs, melfront.oracle.log_mel(clip, **options), seconds / 4)
        title = f"log-mel, {length:g} s unpadded, {cores(threads)}"
        tables.append(Table(title, rows, [TORCH, NUMPY]))
    for n_clips in (1, 4, 16, 64):
        clips = [np.roll(speech(129_600), 1009 * i) for i in range(n_clips)]
        tensors = [torch.from_numpy(c) for c in clips]
        batches: dict[str, Callable[[], Any]] = {
            TORCH: partial(melfront.log_mel, tensors, n_mels=N_MELS),
            NUMPY: partial(melfront.log_mel, clips, n_mels=N_MELS),
        }
        if installed("asrfront"):
            from asrfront.whisper import log_mel_batch

            for suffix in ("", AGAIN):
                batches["asrfront" + suffix] = partial(
                    log_mel_batch, clips, n_mels=N_MELS, n_threads=threads
                )
        truth = melfront.oracle.log_mel(clips, n_mels=N_MELS)
        rows = raced(batches, truth, seconds / 4)
        title = f"log-mel, batch of {n_clips}, 8.1 s padded to 30 s, {cores(threads)}"
        tables.append(Table(title, rows, [TORCH, NUMPY]))
    return tables


THEIR_PROCESS = """
import numpy, soundfile, sys
from transformers import WhisperFeatureExtractor
audio, rate = soundfile.read(sys.argv[1], dtype="float32")
extract = WhisperFeatureExtractor(feature_size=128)
out = extract(audio, sampling_rate=rate, return_tensors="np")
numpy.save(sys.argv[2], out["input_features"][0])
"""


def process(seconds: float, threads: int) -> Table:
    """The whole process, imports included, from a file to a file."""
    import subprocess

    with tempfile.TemporaryDirectory() as folder:
        clip, out = str(SAMPLE), f"{folder}/out.npy"
        ours = [sys.executable, "-m", "melfront", clip, "-o", out]
        theirs = [sys.executable, "-c", THEIR_PROCESS, clip, out]

        def call(command: list[str]) -> None:
            subprocess.run(command, check=True, capture_output=True)

        truth = melfront.oracle.log_mel(melfront.load_audio("sample"), n_mels=N_MELS)
        runs, error = {}, {}
        names = {"python -m melfront": ours}
        if installed("transformers"):
            names |= {"transformers": theirs, "transformers" + AGAIN: theirs}
        for name, command in names.items():
            call(command)
            error[name] = errors(np.load(out), truth)
            runs[name] = partial(call, command)
        times = race(runs, seconds)
    rows = [Row(name, spent, *error[name]) for name, spent in times.items()]
    title = f"a file to a file, the whole process, {cores(threads)}"
    return Table(title, rows, ["python -m melfront"])


def measure(work: str, seconds: float, threads: int) -> list[dict[str, Any]]:
    """Run a work in this process; its tables as JSON."""
    warnings.simplefilter("ignore")
    tables: list[Table]
    if work == "growth":
        tables = growth(seconds, threads)
    elif work == "one hour":
        tables = [hour(seconds, threads)]
    elif work == "process":
        tables = [process(seconds, threads)]
    elif work == "32 clips of 30 s":
        tables = [batch(seconds, threads)]
    else:
        tables = [one_clip(seconds, threads, 480_000 if work == "30 s" else 129_600, work)]
    return to_json(tables)
