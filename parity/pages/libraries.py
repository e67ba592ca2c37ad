"""Every installed library's log-mel features on the signals of reference_data, against float64.

    python -m parity libraries -o parity/LIBRARIES.md

Each library is called as its documentation calls it. What it does differently is not written down
here: `parity.compare` finds it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]  # as in encoder/__main__.py

from melfront.audio import Clips
from melfront.command import PROGRESS
from melfront.conventions import HOP_LENGTH, N_FFT, N_SAMPLES, SAMPLE_RATE

from .. import noise as measure
from .. import signals
from ..comparison.compare import compare
from ..comparison.report import Report
from ..files.tensors import Array
from ..noise import MISSING, PASS, WRONG
from ..pipeline import Subject
from ..resolve import of_signal

N_MELS = (80, 128)
WINDOW = 0.5  # seconds that short clips are padded to, where zeros are expected after the clip


class Case(NamedTuple):
    """What a library is given: clips, the length they are padded to, how many bins."""

    clips: list[Array]
    batched: bool
    length: int
    n_mels: int

    def padded(self) -> Array:
        """The clips with zeros after them, (B, L) float32."""
        return np.stack([np.pad(clip, (0, self.length - len(clip))) for clip in self.clips])

    @property
    def n_frames(self) -> int:
        return self.length // HOP_LENGTH


@dataclass(frozen=True)
class Library:
    """One way to call one library."""

    name: str
    package: str  # that has to be installed
    call: str  # for the reader
    run: Callable[[Case], Array]  # (M, F), or (B, M, F) of a batch
    window: bool = False  # made for clips that zeros follow: short ones are padded to WINDOW


def one_by_one(one: Callable[[Array, Case], Array], padded: bool = True) -> Callable[[Case], Array]:
    """For libraries that take a single clip: `one(clip, case)`, with zeros after it or without."""

    def run(case: Case) -> Array:
        rows = [one(clip, case) for clip in (case.padded() if padded else case.clips)]
        return np.stack(rows) if case.batched else rows[0]

    return run


# --- the libraries ----------------------------------------------------------------------------


@lru_cache(maxsize=8)
def extractor(n_mels: int, **options: Any) -> Any:
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=n_mels, **options)


def transformers(torch_path: bool) -> Callable[[Case], Array]:
    """WhisperFeatureExtractor, which has a path for who has torch and one for who has not."""

    def run(case: Case) -> Array:
        import transformers.models.whisper.feature_extraction_whisper as module

        logging.getLogger("transformers").setLevel(logging.ERROR)
        with patch.object(module, "is_torch_available", lambda: torch_path):
            out = extractor(case.n_mels)(
                case.clips,
                sampling_rate=SAMPLE_RATE,
                padding="max_length",
                max_length=case.length,
                return_tensors="np",
            )["input_features"]
        return np.asarray(out if case.batched else out[0])

    return run


def openai(case: Case) -> Array:
    import torch
    import whisper

    audio = torch.from_numpy(case.padded())
    out = whisper.log_mel_spectrogram(audio if case.batched else audio[0], case.n_mels)
    return np.asarray(out.numpy())


def openai_transcribe(clip: Array, case: Case) -> Array:
    """What whisper.transcribe gives the encoder for a clip's first window."""
    import torch
    import whisper

    mel = whisper.log_mel_spectrogram(torch.from_numpy(clip), case.n_mels, padding=N_SAMPLES)
    content = mel.shape[-1] - N_SAMPLES // HOP_LENGTH
    return np.asarray(whisper.pad_or_trim(mel[:, :content], case.n_frames).numpy())


@lru_cache(maxsize=2)
def faster_whisper_extractor(n_mels: int) -> Any:
    from faster_whisper.feature_extractor import FeatureExtractor

    return FeatureExtractor(feature_size=n_mels)


def faster_whisper(clip: Array, case: Case) -> Array:
    return np.asarray(faster_whisper_extractor(case.n_mels)(clip))


def faster_whisper_transcribe(clip: Array, case: Case) -> Array:
    """What WhisperModel.transcribe gives the encoder for a clip's first window."""
    from faster_whisper.audio import pad_or_trim

    mel = faster_whisper_extractor(case.n_mels)(clip)
    return np.asarray(pad_or_trim(mel[:, : mel.shape[-1] - 1], case.n_frames))


def log_and_scale(mel: Array) -> Array:
    """Whisper's last steps, for libraries that end at the mel spectrogram."""
    log = np.log10(np.maximum(mel, np.float32(1e-10)))
    return (np.maximum(log, log.max() - 8) + 4) / 4


def librosa(**options: Any) -> Callable[[Case], Array]:
    def one(clip: Array, case: Case) -> Array:
        from librosa.feature import melspectrogram

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mel = melspectrogram(
                y=clip,
                sr=SAMPLE_RATE,
                n_fft=N_FFT,
                hop_length=HOP_LENGTH,
                n_mels=case.n_mels,
                **options,
            )
        return log_and_scale(mel[:, :-1])

    return one_by_one(one)


def asrfront(clip: Array, case: Case) -> Array:
    from asrfront import whisper

    return np.asarray(whisper.log_mel(clip, n_mels=case.n_mels, pad_or_trim=False))


def hf_processors(case: Case) -> Array:
    from hf_processors_rs import WhisperFeatureExtractor

    config = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": case.n_mels,
    }
    out = WhisperFeatureExtractor.from_dict(config)(
        case.clips,
        sampling_rate=SAMPLE_RATE,
        padding="max_length",
        max_length=case.length,
        return_tensors="np",
    )["input_features"]
    return np.asarray(out if case.batched else out[0])


def kaldi(clip: Array, case: Case) -> Array:
    import kaldi_native_fbank

    options = kaldi_native_fbank.WhisperFeatureOptions()
    options.dim = case.n_mels
    fbank = kaldi_native_fbank.OnlineWhisperFbank(options)
    fbank.accept_waveform(SAMPLE_RATE, clip)
    fbank.input_finished()
    mel = np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)], axis=1)  # (M, F)
    return log_and_scale(mel)


LIBRARIES = (
    Library(
        "transformers, torch path",
        "transformers",
        "`WhisperFeatureExtractor(...)` where torch is installed",
        transformers(torch_path=True),
    ),
    Library(
        "transformers, NumPy path",
        "transformers",
        "`WhisperFeatureExtractor(...)` where torch is not installed",
        transformers(torch_path=False),
    ),
    Library(
        "openai-whisper",
        "openai-whisper",
        "`log_mel_spectrogram` of the padded clip",
        openai,
    ),
    Library(
        "openai-whisper, transcribe",
        "openai-whisper",
        "what `transcribe` gives the encoder",
        one_by_one(openai_transcribe, padded=False),
        window=True,
    ),
    Library(
        "faster-whisper",
        "faster-whisper",
        "`FeatureExtractor(...)` of the padded clip",
        one_by_one(faster_whisper),
    ),
    Library(
        "faster-whisper, transcribe",
        "faster-whisper",
        "what `WhisperModel.transcribe` gives the encoder",
        one_by_one(faster_whisper_transcribe, padded=False),
        window=True,
    ),
    Library(
        "asrfront",
        "asrfront",
        "`whisper.log_mel(pad_or_trim=False)` of the padded clip",
        one_by_one(asrfront),
    ),
    Library(
        "hf-processors-rs",
        "hf-processors-rs",
        "`WhisperFeatureExtractor.from_dict(...)`",
        hf_processors,
    ),
    Library(
        "librosa, pad_mode='reflect'",
        "librosa",
        "`feature.melspectrogram`, then Whisper's logarithm and scale",
        librosa(pad_mode="reflect"),
    ),
    Library(
        "librosa, default padding",
        "librosa",
        "the same without `pad_mode`",
        librosa(),
    ),
    Library(
        "kaldi-native-fbank",
        "kaldi-native-fbank",
        "`OnlineWhisperFbank`, then the logarithm and scale that its header asks for",
        one_by_one(kaldi),
    ),
)


def version(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def installed() -> list[Library]:
    return [library for library in LIBRARIES if version(library.package)]


def find(name: str) -> Library:
    """The library of this name. Raises KeyError."""
    return {library.name: library for library in LIBRARIES}[name]


# --- judging ------------------------------------------------------------------------------------


SIGNALS = (*signals.SHORT, "sample")
Results = dict[str, dict[str, "Judged"]]


class Judged(NamedTuple):
    """One library on one signal, the worse of 80 and 128 bins."""

    verdict: str
    noise: float
    names: tuple[str, ...]  # the mistakes that fit, best first
    left: float  # noise that is left once the first of them is assumed
    nearest: str  # where none fits


@lru_cache(maxsize=64)
def subject(signal: str, n_mels: int, window: bool) -> Subject:
    """A signal at its own length, or padded to the window that it would be given to Whisper in."""
    made = of_signal(signal, n_mels)
    return replace(made, pad_to=WINDOW) if window and signal != "sample" else made


def case_of(subject: Subject) -> Case:
    clips: Clips = subject.clips
    return Case(list(clips.arrays), clips.batched, subject.length, subject.n_mels)


def judge(library: Library, signal: str) -> Judged:
    """The library's features of this signal against float64, with the mistake's name."""
    return max((judge_at(library, signal, n) for n in N_MELS), key=lambda found: sort_key(found))


def sort_key(found: Judged) -> tuple[int, float]:
    return [PASS, measure.NOISY, WRONG, measure.SHAPE, MISSING].index(found.verdict), found.noise


def judge_at(library: Library, signal: str, n_mels: int) -> Judged:
    about = subject(signal, n_mels, library.window)
    features = library.run(case_of(about))
    result: Report = compare(
        {"features": features}, audio=about.audio, n_mels=n_mels, pad_to=about.pad_to
    )
    stage, found = result.stages[0], result.diagnosis
    names = tuple(named.name for named in found.named) if found else ()
    nearest = found.nearest.name if found and found.nearest else ""
    left = found.named[0].residual if found and found.named else stage.noise
    return Judged(stage.verdict, stage.noise, names, left, nearest)


def judge_all(libraries: Iterable[Library]) -> Results:
    """Every library on every signal: name to signal to result."""
    return {
        library.name: {signal: judge(library, signal) for signal in SIGNALS}
        for library in tqdm(list(libraries), desc="libraries", unit="", **PROGRESS)
    }
