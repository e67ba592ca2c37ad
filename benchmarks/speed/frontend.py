"""`melfront benchmarks frontend`: log-mel features, ours and those of other libraries.

# N samples  M mel bins  F frames
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import melfront
from melfront.audio import SAMPLE
from melfront.command import scratch_folder
from melfront.conventions import HOP_LENGTH, N_FFT, N_FRAMES, N_SAMPLES, SAMPLE_RATE
from melfront.parity.pages import libraries

from ..machine import installed
from ..race import race
from .own_process import peak
from .results import AGAIN, Row, Table, cores, errors

N_MELS = 128
TORCH, NUMPY, NO_NUMBA = "melfront, torch", "melfront, NumPy", "melfront, no numba"
ROOF = "its FFT alone"
Array = NDArray[Any]
Runs = dict[str, Callable[[], Any]]


def speech(n_samples: int) -> Array:
    """The sample clip, repeated to this length: (n,) float32."""
    return np.resize(melfront.load_audio("sample"), n_samples)


def ours(audio: Any, **options: Any) -> Runs:
    """Our features of a clip (N,), or of a list of clips. A call makes its own tensors of them."""
    run: Callable[..., Any] = partial(melfront.log_mel, n_mels=N_MELS, **options)

    def of_tensors() -> Any:
        one = isinstance(audio, np.ndarray)
        return run(torch.from_numpy(audio) if one else [*map(torch.from_numpy, audio)])

    in_numpy = partial(run, audio, compiled=False)
    return {TORCH: of_tensors, NUMPY: partial(run, audio), NO_NUMBA: in_numpy}


# --- the peers: each a function of a clip (N,) that gives features (M, F) -------------------------


def of_one(extract: libraries.Run) -> Callable[[Array], Array]:
    """For what takes a batch, and pads it itself."""
    return lambda clip: extract([clip], N_SAMPLES, N_MELS)[0]


def openai(clip: Array) -> Array:
    import whisper

    return libraries.openai(whisper.pad_or_trim(torch.from_numpy(clip)), N_MELS)


def faster_whisper(clip: Array) -> Array:
    # `padding` adds zeros after the clip: with it the last frame is one too many, as documented.
    padding = HOP_LENGTH + N_SAMPLES - len(clip)
    return libraries.faster_whisper(clip, N_MELS, padding)[:, :N_FRAMES]


def librosa(clip: Array) -> Array:
    from librosa.util import fix_length

    return libraries.librosa(fix_length(clip, size=N_SAMPLES), N_MELS, pad_mode="reflect")


# A name begins with that of the package that it needs.
PEERS: dict[str, Callable[[Array], Any]] = {
    "transformers, torch": of_one(libraries.transformers),
    "transformers, torch" + AGAIN: of_one(libraries.transformers),
    "transformers, NumPy": of_one(libraries.transformers_numpy),
    "openai-whisper": openai,
    "faster-whisper": faster_whisper,
    "librosa": librosa,
    "asrfront": partial(libraries.asrfront, n_mels=N_MELS),
    "hf-processors-rs": of_one(libraries.hf_processors),
}


def roof(clip: Array) -> Callable[[], object]:
    """The Fourier transforms of the frames that the clip reaches, already windowed."""
    n_frames = min(N_FRAMES, (len(clip) + N_FFT // 2) // HOP_LENGTH + 1)
    frames = torch.zeros(n_frames, N_FFT)
    return lambda: torch.fft.rfft(frames)


# --- the works ----------------------------------------------------------------------------------


def raced(what: str, runs: Runs, audio: Any, seconds: float, threads: int, **options: Any) -> Table:
    """Measure every contestant's error on this audio, then time all. options: of the oracle."""
    truth = melfront.oracle.log_mel(audio, n_mels=N_MELS, **options)
    error = {n: errors(np.asarray(run()), truth) for n, run in runs.items() if n != ROOF}
    times = race(runs, seconds)
    rows = [Row(name, spent, *error.get(name, ())) for name, spent in times.items()]
    return Table(f"log-mel, {what}, {cores(threads)}", rows, [TORCH, NUMPY])


def one_clip(what: str, n_samples: int, seconds: float, threads: int) -> Table:
    clip = speech(n_samples)
    present = (name for name in PEERS if installed(name.partition(",")[0]))
    theirs = {name: partial(PEERS[name], clip) for name in present}
    return raced(what, ours(clip) | theirs | {ROOF: roof(clip)}, clip, seconds, threads)


def batch_of(n_clips: int, n_samples: int, threads: int) -> tuple[list[Array], Runs]:
    """Clips of one length, and who computes all of them at once, padded to 30 s."""
    clips = [np.roll(speech(n_samples), 1009 * i) for i in range(n_clips)]
    runs = ours(clips)
    if installed("asrfront"):
        from asrfront.whisper import log_mel_batch

        runs["asrfront"] = partial(log_mel_batch, clips, n_mels=N_MELS, n_threads=threads)
    return clips, runs


def batch(seconds: float, threads: int) -> Table:
    clips, runs = batch_of(32, N_SAMPLES, threads)
    if installed("transformers"):
        theirs = partial(libraries.transformers, clips, N_SAMPLES, N_MELS)
        runs |= {"transformers, torch": theirs, "transformers, torch" + AGAIN: theirs}
    return raced("32 clips of 30 s", runs, clips, seconds, threads)


def short_batch(n_clips: int, seconds: float, threads: int) -> Table:
    clips, runs = batch_of(n_clips, 129_600, threads)
    if "asrfront" in runs:
        runs["asrfront" + AGAIN] = runs["asrfront"]
    return raced(f"batch of {n_clips}, 8.1 s padded to 30 s", runs, clips, seconds, threads)


def unpadded(length: float, seconds: float, threads: int) -> Table:
    """A clip of so many seconds at its own length."""
    clip = speech(int(length * SAMPLE_RATE))
    runs = ours(clip, pad_to=None)
    if installed("openai-whisper"):
        import whisper

        theirs = partial(whisper.log_mel_spectrogram, torch.from_numpy(clip), N_MELS)
        runs |= {"openai-whisper": theirs, "openai-whisper" + AGAIN: theirs}
    if installed("asrfront"):
        runs["asrfront"] = partial(libraries.asrfront, clip, N_MELS, pad_or_trim=False)
    return raced(f"{length:g} s unpadded", runs, clip, seconds, threads, pad_to=None)


def growth(seconds: float, threads: int) -> list[Table]:
    """Clips from 0.5 s to 5 min at their own length, and batches of 8.1 s in 30 s."""
    return [
        *(unpadded(length, seconds / 4, threads) for length in (0.5, 1.0, 5.0, 30.0, 300.0)),
        *(short_batch(n_clips, seconds / 4, threads) for n_clips in (1, 4, 16, 64)),
    ]


def hour(seconds: float, threads: int) -> Table:
    """An hour against 120 times 30 s, and the memory it takes on top of its result."""
    clip, short = speech(3600 * SAMPLE_RATE), speech(N_SAMPLES)
    options: dict[str, Any] = {"n_mels": N_MELS, "pad_to": None}
    long, brief = ours(clip, pad_to=None), ours(short, pad_to=None)
    # The hour repeats 8.1 s, so its loudest value is in its first minute, and the truth of that
    # minute is the hour's, but for the last frame, which has another right neighbour.
    truth = melfront.oracle.log_mel(clip[: 60 * SAMPLE_RATE], **options)[:, :-1]
    truth_brief = melfront.oracle.log_mel(short, **options)
    runs: Runs = {}
    error, lines = {}, []
    for name in (TORCH, NUMPY):
        error[f"{name}, 30 s"] = errors(np.asarray(brief[name]()), truth_brief)
        before = peak(reset=True)
        result = long[name]()
        beyond = peak() - before - result.nbytes
        error[f"{name}, one hour"] = errors(np.asarray(result)[:, : truth.shape[1]], truth)
        lines.append(
            f"{name}: {beyond / 1e6:.0f} MB on top of the {result.nbytes / 1e6:.0f} MB result"
        )
        del result
        runs |= {f"{name}, one hour": long[name], f"{name}, 30 s": brief[name]}
    times = race(runs, seconds)
    for name in (TORCH, NUMPY):
        ratio = np.median(times[f"{name}, one hour"]) / np.median(times[f"{name}, 30 s"]) / 120
        lines.append(f"{name}: an hour takes {ratio:.2f} of 120 times 30 s")
    rows = [Row(name, spent, *error[name]) for name, spent in times.items()]
    return Table(f"log-mel, one hour, {cores(threads)}", rows, [], lines)


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
    truth = melfront.oracle.log_mel(melfront.load_audio("sample"), n_mels=N_MELS)
    with scratch_folder() as folder:
        clip, out = str(SAMPLE), f"{folder}/out.npy"
        commands = {"python -m melfront": ["-m", "melfront", clip, "-o", out]}
        if installed("transformers"):
            theirs = ["-c", THEIR_PROCESS, clip, out]
            commands |= {"transformers": theirs, "transformers" + AGAIN: theirs}
        runs: Runs = {}
        error = {}
        for name, command in commands.items():
            runs[name] = partial(
                subprocess.run, [sys.executable, *command], check=True, capture_output=True
            )
            runs[name]()
            error[name] = errors(np.load(out), truth)
        times = race(runs, seconds)
    rows = [Row(name, spent, *error[name]) for name, spent in times.items()]
    title = f"a file to a file, the whole process, {cores(threads)}"
    return Table(title, rows, ["python -m melfront"])


@torch.inference_mode()
def measure(work: str, seconds: float, threads: int) -> list[Table]:
    """Run a work in this process."""
    warnings.simplefilter("ignore")
    if work == "growth":
        return growth(seconds, threads)
    if work in ("30 s", "8.1 s padded to 30 s"):
        return [one_clip(work, N_SAMPLES if work == "30 s" else 129_600, seconds, threads)]
    works = {"one hour": hour, "process": process, "32 clips of 30 s": batch}
    return [works[work](seconds, threads)]
