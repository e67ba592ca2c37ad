"""Audio in: read a file, and check a waveform before anything is computed from it."""

# The other packages import these from here.
# mypy: implicit-reexport
# ruff: noqa: F401

from .clips import (
    Clips,
    as_clips,
    check_shape,
    chunks,
    digest,
    fit_length,
    origin,
    padded_length,
    samples_of,
    samples_of_chunk,
    unchecked_clips,
)
from .file import SAMPLE, clip_path, load_audio, resample, windows_of
from .waveform import AudioError, check_rate, is_tensor, is_traced, to_float
