"""Mistakes in reading the file, for a clip that is a file at another rate or in stereo.

They change the clip and no decision of the front end: `diagnosis` computes the right features of
the wrong clip.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

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
FILE = [NOT_RESAMPLED, INTERLEAVED, ONE_CHANNEL]


def misread(path: str) -> Iterator[tuple[FrontEndMistake, Array]]:
    """Each mistake that can be made in reading this file, and the clip (N,) that it gives.

    None for a clip that is not a file.
    """
    if not os.path.isfile(path):
        return
    import soundfile

    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if rate != SAMPLE_RATE:
        yield NOT_RESAMPLED, samples.mean(axis=1)
    if samples.shape[1] > 1:
        yield INTERLEAVED, samples.reshape(-1)
        yield ONE_CHANNEL, resample(samples[:, 0], rate)
