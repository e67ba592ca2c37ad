"""A clip that had to be resampled: what other good resamplers make of it is not wrong.

Every resampler cuts off somewhere below 8 kHz, and no front end is to blame for where. By what good
ones differ, in each mel bin, says what can be judged on such a clip.

    # M mel bins  F frames
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from melfront.conventions import SAMPLE_RATE

from ..diagnosis.match import Candidate
from ..noise import UNJUDGED, Array, rms, widen
from ..pipeline import Pipeline
from .reports.report import StageResult

LIMIT = 3.0  # times the spread of the resamplers below, which are not all there are

EDGE = 1000  # samples, more than half of any filter at a usual rate
# Half the width of the filter, in samples of the lower rate, where it cuts off, and its window:
WINDOWED_SINC: dict[str, tuple[int, float, Any]] = {
    "ffmpeg": (16, 0.97, ("kaiser", 9.0)),
    "torchaudio": (6, 0.99, "hann"),
    "resampy": (64, 0.9476, ("kaiser", 14.77)),
    "scipy": (10, 1.0, ("kaiser", 5.0)),
}


def rate_of(pipeline: Pipeline) -> int:
    """The sampling rate of the clip's file; 16 kHz for a clip that is not a file."""
    if pipeline.file is None or not os.path.isfile(pipeline.file):
        return SAMPLE_RATE
    import soundfile

    return int(soundfile.info(pipeline.file).samplerate)


def resampled(pipeline: Pipeline) -> Iterator[Array]:
    """The clip (N,) as other good resamplers make it."""
    import soundfile
    import soxr
    from scipy import signal

    samples, rate = soundfile.read(pipeline.file, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)  # (N,)
    ratio = Fraction(SAMPLE_RATE, rate)
    up, down = ratio.numerator, ratio.denominator
    ways: list[Callable[[Array], Array]] = [
        partial(soxr.resample, in_rate=rate, out_rate=SAMPLE_RATE, quality="VHQ"),
        partial(signal.resample, num=-(-len(mono) * up // down)),
    ]
    for half, cutoff, window in WINDOWED_SINC.values():
        n = max(up, down)
        taps = signal.firwin(2 * half * n + 1, cutoff / n, window=window)
        ways.append(partial(signal.resample_poly, up=up, down=down, window=taps))
    mirrored = -(-EDGE // down)  # as ffmpeg does: the clip goes on mirrored beyond its ends
    edges = np.pad(mono, mirrored * down, mode="reflect")
    ways.append(lambda x: ways[2](edges)[mirrored * up :][: -(-len(x) * up // down)])
    for way in ways:
        yield way(mono)[pipeline.start :][: pipeline.length].astype(np.float32)


def spread(candidate: Candidate) -> Array:
    """By what good resamplers differ from the truth of a stage: in each of its bins, or (1, 1)."""
    pipeline, stage, truth, cut = candidate[0], candidate.stage, candidate.truth, candidate.view
    # Along time the spread is of the clip's loudness, and the encoder mixes everything.
    axes = stage.time_axis if stage.of_front_end and len(stage.axes) > 1 else None
    most = np.zeros(1)
    for clip in resampled(pipeline):
        other = replace(pipeline, audio=clip)
        if stage.of_front_end:
            tensor = other.front_end(upto=stage)[stage]
        else:
            tensor = other.right_port([stage], "float32")[stage]
        off = np.abs(cut(tensor) - truth) ** 2
        most = np.maximum(most, off.mean(axis=axes, keepdims=True))
    return np.sqrt(most)


def without_resampling(result: StageResult, candidate: Candidate) -> Candidate | None:
    """Do not call wrong, on a clip that had to be resampled, what another good resampler gives.

    Returns the candidate with its errors weighed by what is certain; None if it was not resampled.
    """
    pipeline, values = candidate.pipeline, candidate.values
    rate = rate_of(pipeline)
    if rate == SAMPLE_RATE or not np.isfinite(values).all():
        return None
    off = np.maximum(spread(candidate), candidate.floor)
    error = rms((widen(values) - candidate.truth) / off)
    if error <= LIMIT:
        result.verdict = UNJUDGED
    result.notes += (f"the clip is at {rate} Hz, and resampling is not judged",)
    unit = rms(off)
    return candidate._replace(weights=unit / off, floor=unit, error=error)


def without_it(pipeline: Pipeline) -> str:
    """How to check the front end apart from the resampling."""
    file = str(pipeline.file)
    out = f"{os.path.splitext(os.path.basename(file))[0]}-16k.wav"
    code = (
        "import melfront, soundfile; "
        f"soundfile.write({out!r}, melfront.load_audio({file!r}), 16000, 'FLOAT')"
    )
    quoted = shlex.quote(code) if set(code) & set('"$`\\!') else f'"{code}"'
    return (
        "check the front end on a 16 kHz file: on the samples that your port makes of this one, or "
        f"on ours, which this writes: python -c {quoted}"
    )
