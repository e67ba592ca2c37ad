"""Audio in: read a file, and check a waveform before anything is computed from it."""

from .clips import (
    Clips,
    as_clips,
    check_shape,
    chunks,
    digest,
    fit_length,
    padded_length,
    samples_of,
)
from .file import SAMPLE, clip_path, load_audio, resample
from .waveform import AudioError, check_rate, is_tensor, is_traced, to_float

__all__ = [
    "SAMPLE",
    "AudioError",
    "Clips",
    "as_clips",
    "check_rate",
    "check_shape",
    "chunks",
    "clip_path",
    "digest",
    "fit_length",
    "is_tensor",
    "is_traced",
    "load_audio",
    "padded_length",
    "resample",
    "samples_of",
    "to_float",
]
