"""Mistakes in reading the file, for a clip that is a file at another rate or in stereo.

They change the clip and no decision of the front end: `diagnosis` computes the right features of
the wrong clip.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from melfront.audio import resample
from melfront.conventions import SAMPLE_RATE

from ..noise import Array
from .entry import FrontEndMistake, mistake

NOT_RESAMPLED = mistake(
    "not resampled: the file's samples are taken as if they were at 16 kHz: speech at 44.1 kHz is "
    "2.8 times as slow and as low",
    seen="transformers' extractor, if it is given no sampling_rate",
)
INTERLEAVED = mistake(
    "channels interleaved: the samples of all channels are read one after the other, in the file's "
    "order, as if they were one clip"
)
ONE_CHANNEL = mistake(
    "one channel: the first channel is taken, where all should be averaged",
)
SECOND_CHANNEL = mistake(
    "second channel: the second channel is taken, where all should be averaged",
)
DIFFERENCE = mistake(
    "difference of channels: half the difference of the first two channels is taken, where all "
    "should be averaged"
)
EVERY_NTH = mistake(
    "every n-th sample: of a file at 48 kHz every third sample is taken, of one at 32 kHz every "
    "second: x[::3], x[::2], with no low-pass before"
)
LINEAR = mistake(
    "linear interpolation: the file is brought to 16 kHz by linear interpolation between its "
    "samples, with no low-pass before",
    seen="numpy.interp; resamplers of audio players and games",
)
NEAREST = mistake(
    "nearest sample: the file is brought to 16 kHz by the sample before each moment, with no "
    "low-pass before"
)
FILE = [
    NOT_RESAMPLED,
    EVERY_NTH,
    LINEAR,
    NEAREST,
    INTERLEAVED,
    ONE_CHANNEL,
    SECOND_CHANNEL,
    DIFFERENCE,
]


def misread(path: str) -> Iterator[tuple[FrontEndMistake, Array]]:
    """Each mistake that can be made in reading this file, and the clip (N,) that it gives.

    None for a clip that is not a file.
    """
    if not os.path.isfile(path):
        return
    import soundfile

    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if rate != SAMPLE_RATE:
        mono = samples.mean(axis=1)
        yield NOT_RESAMPLED, mono
        yield from without_low_pass(mono, rate)
    if samples.shape[1] > 1:
        yield INTERLEAVED, samples.reshape(-1)
        yield ONE_CHANNEL, resample(samples[:, 0], rate)
        yield SECOND_CHANNEL, resample(samples[:, 1], rate)
        yield DIFFERENCE, resample((samples[:, 0] - samples[:, 1]) / 2, rate)


def without_low_pass(mono: Array, rate: int) -> Iterator[tuple[FrontEndMistake, Array]]:
    """(n,) float32 at a rate in Hz -> (N,) at 16 kHz, by what is not a resampler."""
    if rate % SAMPLE_RATE == 0:
        yield EVERY_NTH, mono[:: rate // SAMPLE_RATE]
        return
    at = np.arange(int(len(mono) * SAMPLE_RATE / rate)) * (rate / SAMPLE_RATE)
    yield LINEAR, np.interp(at, np.arange(len(mono)), mono).astype(np.float32)
    yield NEAREST, mono[at.astype(np.int64)]
