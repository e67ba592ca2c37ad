"""How other libraries are called for log-mel features: as their documentation calls them.

    # B clips  L samples  M mel bins  F frames

The functions take and return NumPy arrays in float32; `benchmarks` times the same functions.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import metadata
from typing import Any

import numpy as np

from melfront.conventions import DYNAMIC_RANGE, HOP_LENGTH, LOG_FLOOR, N_FFT, N_SAMPLES, SAMPLE_RATE

from ..noise import Array

# --- one function for each library ----------------------------------------------------------------


@lru_cache(maxsize=8)
def extractor(n_mels: int, **options: Any) -> Any:
    from transformers import WhisperFeatureExtractor

    logging.getLogger("transformers").setLevel(logging.ERROR)
    return WhisperFeatureExtractor(feature_size=n_mels, **options)


@lru_cache(maxsize=2)
def numpy_extractor(n_mels: int) -> Any:
    """transformers' extractor as it computes where torch is not installed."""
    from transformers import WhisperFeatureExtractor

    class NumPyPath(WhisperFeatureExtractor):
        def _torch_extract_fbank_features(self, waveform: Any, device: str = "cpu") -> Any:
            return self._np_extract_fbank_features(waveform, device)

    return NumPyPath(feature_size=n_mels)


def padded_to(extract: Any, clips: Sequence[Array], length: int) -> Array:
    """Call an extractor with the interface of transformers': clips (N,) to (B, M, F)."""
    out = extract(
        clips,
        sampling_rate=SAMPLE_RATE,
        padding="max_length",
        max_length=length,
        return_tensors="np",
    )
    return np.asarray(out["input_features"])


def transformers(clips: Sequence[Array], length: int, n_mels: int) -> Array:
    """WhisperFeatureExtractor where torch is installed: clips (N,) to (B, M, F)."""
    return padded_to(extractor(n_mels), clips, length)


def transformers_numpy(clips: Sequence[Array], length: int, n_mels: int) -> Array:
    """WhisperFeatureExtractor where torch is not installed: clips (N,) to (B, M, F)."""
    return padded_to(numpy_extractor(n_mels), clips, length)


@lru_cache(maxsize=2)
def hf_processors_extractor(n_mels: int) -> Any:
    from hf_processors_rs import WhisperFeatureExtractor

    config = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": n_mels}
    return WhisperFeatureExtractor.from_dict(config)


def hf_processors(clips: Sequence[Array], length: int, n_mels: int) -> Array:
    """hf-processors-rs: clips (N,) to (B, M, F)."""
    return padded_to(hf_processors_extractor(n_mels), list(clips), length)


def openai(audio: Array, n_mels: int, padding: int = 0) -> Array:
    """whisper.log_mel_spectrogram: (L,) to (M, F), or (B, L) to (B, M, F)."""
    import torch
    import whisper

    return np.asarray(whisper.log_mel_spectrogram(torch.as_tensor(audio), n_mels, padding).numpy())


def openai_transcribe(clip: Array, length: int, n_mels: int) -> Array:
    """What whisper.transcribe gives the encoder for a clip's first window: (N,) to (M, F)."""
    import whisper

    mel = openai(clip, n_mels, padding=N_SAMPLES)
    content = mel.shape[-1] - N_SAMPLES // HOP_LENGTH
    return np.asarray(whisper.pad_or_trim(mel[:, :content], length // HOP_LENGTH))


@lru_cache(maxsize=2)
def faster_whisper_extractor(n_mels: int) -> Any:
    from faster_whisper.feature_extractor import FeatureExtractor

    return FeatureExtractor(feature_size=n_mels)


def faster_whisper(clip: Array, n_mels: int, padding: int = HOP_LENGTH) -> Array:
    """faster_whisper's FeatureExtractor: (N,) to (M, F). padding: zeros added after the clip."""
    return np.asarray(faster_whisper_extractor(n_mels)(clip, padding=padding))


def faster_whisper_transcribe(clip: Array, length: int, n_mels: int) -> Array:
    """What WhisperModel.transcribe gives the encoder for a clip's first window: (N,) to (M, F)."""
    from faster_whisper.audio import pad_or_trim

    mel = faster_whisper(clip, n_mels)
    return np.asarray(pad_or_trim(mel[:, : mel.shape[-1] - 1], length // HOP_LENGTH))


def librosa(clip: Array, n_mels: int, **options: Any) -> Array:
    """librosa.feature.melspectrogram, then Whisper's last steps: (L,) to (M, F)."""
    from librosa.feature import melspectrogram

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mel = melspectrogram(
            y=clip, sr=SAMPLE_RATE, n_fft=N_FFT, hop_length=HOP_LENGTH, n_mels=n_mels, **options
        )
    return log_and_scale(mel[:, :-1])


def asrfront(clip: Array, n_mels: int, **options: Any) -> Array:
    """asrfront's log_mel: (N,) to (M, F)."""
    from asrfront import whisper

    return np.asarray(whisper.log_mel(clip, n_mels=n_mels, **options))


def kaldi(clip: Array, n_mels: int) -> Array:
    """kaldi-native-fbank's OnlineWhisperFbank, then Whisper's last steps: (L,) to (M, F)."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.WhisperFeatureOptions()
    options.dim = n_mels
    fbank = kaldi_native_fbank.OnlineWhisperFbank(options)
    fbank.accept_waveform(SAMPLE_RATE, clip)
    fbank.input_finished()
    mel = np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)], axis=1)  # (M, F)
    return log_and_scale(mel)


def log_and_scale(mel: Array) -> Array:
    """Whisper's last steps, for libraries that end at the mel spectrogram."""
    log = np.log10(np.maximum(mel, np.float32(LOG_FLOOR)))
    return (np.maximum(log, log.max() - DYNAMIC_RANGE) + 4) / 4


# --- all of them, with one signature --------------------------------------------------------------

Run = Callable[[Sequence[Array], int, int], Array]  # clips (N,), length, n_mels: to (B, M, F)


@dataclass(frozen=True)
class Library:
    """One way to call one library."""

    name: str  # of the package, and which of its ways
    call: str  # for the reader
    run: Run
    window: bool = False  # made for clips that zeros follow, as in a window of 30 s

    @property
    def package(self) -> str:
        """The package that has to be installed."""
        return self.name.partition(",")[0]


def as_it_is(one: Callable[[Array, int, int], Array]) -> Run:
    """For what takes a single clip and pads it itself: `one(clip, length, n_mels)`."""
    return lambda clips, length, n_mels: np.stack([one(clip, length, n_mels) for clip in clips])


def zeros_after(clip: Array, length: int) -> Array:
    return np.pad(clip, (0, length - len(clip)))


def padded(one: Callable[[Array, int], Array]) -> Run:
    """For what takes a single clip with zeros after it: `one(clip, n_mels)`."""
    return as_it_is(lambda clip, length, n_mels: one(zeros_after(clip, length), n_mels))


def openai_batch(clips: Sequence[Array], length: int, n_mels: int) -> Array:
    return openai(np.stack([zeros_after(clip, length) for clip in clips]), n_mels)


LIBRARIES = (
    Library(
        "transformers, torch path",
        "`WhisperFeatureExtractor(...)` where torch is installed",
        transformers,
    ),
    Library(
        "transformers, NumPy path",
        "`WhisperFeatureExtractor(...)` where torch is not installed",
        transformers_numpy,
    ),
    Library("openai-whisper", "`log_mel_spectrogram` of the padded clip", openai_batch),
    Library(
        "openai-whisper, transcribe",
        "what `transcribe` gives the encoder",
        as_it_is(openai_transcribe),
        window=True,
    ),
    Library("faster-whisper", "`FeatureExtractor(...)` of the padded clip", padded(faster_whisper)),
    Library(
        "faster-whisper, transcribe",
        "what `WhisperModel.transcribe` gives the encoder",
        as_it_is(faster_whisper_transcribe),
        window=True,
    ),
    Library(
        "asrfront",
        "`whisper.log_mel(pad_or_trim=False)` of the padded clip",
        padded(partial(asrfront, pad_or_trim=False)),
    ),
    Library("hf-processors-rs", "`WhisperFeatureExtractor.from_dict(...)`", hf_processors),
    Library(
        "librosa, pad_mode='reflect'",
        "`feature.melspectrogram`, then Whisper's logarithm and scale",
        padded(partial(librosa, pad_mode="reflect")),
    ),
    Library("librosa, default padding", "the same without `pad_mode`", padded(librosa)),
    Library(
        "kaldi-native-fbank",
        "`OnlineWhisperFbank`, then the logarithm and scale that its header asks for",
        padded(kaldi),
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
