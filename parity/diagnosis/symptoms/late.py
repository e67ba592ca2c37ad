"""Frames that begin some samples early or late.

# B batch  F frames  N n_fft  K frequencies  M mel bins
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from melfront import variants
from melfront.conventions import HOP_LENGTH, N_FFT

from ...noise import Array, rms
from ...pipeline import Pipeline
from .view import TIMES, View, many

STAGES = ("power", "mel", "log", "clamped", "features")
COARSE = 8  # samples, a small part of a frame: the error grows slowly with them
FARTHEST = N_FFT - COARSE  # samples
LOUDEST = 24  # frames


def samples_late(pipeline: Pipeline, stage: str, v: View) -> str:
    """By how many samples the frames of a clip begin early or late; "" if they do not."""
    if stage not in STAGES or pipeline.audio is None or v.mine.ndim != 2:
        return ""
    if v.mine.shape != pipeline.front_end_truth[stage].shape:  # some of the frames
        return ""
    padded = pipeline.front_end_truth["padded"]
    mine = v.mine if stage == "power" else v.mine.T  # (F, K) or (F, M)
    loudness = pipeline.front_end_truth["power"].sum(-1)  # (F,)
    first = -(-N_FFT // HOP_LENGTH)
    inside = np.arange(first, len(loudness) - first - 1)
    if not inside.size:
        return ""
    chosen = inside[np.argsort(loudness[inside])[-LOUDEST:]]
    mine, truth = mine[chosen], (v.truth if stage == "power" else v.truth.T)[chosen]
    keep = (
        mine > mine.min() + 1e-3 if stage in ("clamped", "features") else np.ones(mine.shape, bool)
    )
    made = maker(pipeline, stage)

    def error(late: int) -> float:
        starts = HOP_LENGTH * chosen - late
        return rms((made(padded[starts[:, None] + np.arange(N_FFT)]) - mine)[keep])

    errors = {late: error(late) for late in range(-FARTHEST, FARTHEST + 1, COARSE)}
    near = min(errors, key=errors.__getitem__)
    errors |= {late: error(late) for late in range(near - COARSE + 1, near + COARSE)}
    late = min(errors, key=errors.__getitem__)
    if not late or not (TIMES * errors[late] <= rms((mine - truth)[keep])):
        return ""
    samples = f"{abs(late)} {many('sample', abs(late))} {'late' if late > 0 else 'early'}"
    header = ": the 44 bytes of a WAV file's header, read as samples" if late == 22 else ""
    return f"every frame is that of a clip that comes {samples}{header}"


def maker(pipeline: Pipeline, stage: str) -> Callable[[Array], Array]:
    """What makes of frames (F, N) a stage's (F, K) or (F, M), but that nothing is clamped."""
    c = pipeline.convention
    window, bank = variants.window(c), variants.filters(c, pipeline.n_mels).T  # (K, M)

    def made(frames: Array) -> Array:
        x = variants.power(variants.spectrum(frames * window, c), c)  # (F, K)
        if stage != "power":
            x = x @ bank  # (F, M)
        if stage not in ("power", "mel"):
            x = variants.log(x, c)
        return (x + c.offset) / c.divisor if stage == "features" else x

    return made


def quiet_places(stage: str, v: View) -> str:
    """Are the quiet values much further off than the loud ones?"""
    if stage not in ("log", "clamped", "features") or v.mine.size < 4096:
        return ""
    above = (v.truth > v.truth.min() + 1e-3) & (v.mine > v.mine.min() + 1e-3)
    if above.sum() < 4096:
        return ""
    order = np.argsort(v.truth[above])
    errors = (v.mine - v.truth)[above][order]
    third = len(errors) // 3
    quiet, loud = rms(errors[:third]), rms(errors[-third:])
    if not (quiet >= 10 * loud):
        return ""
    return (
        f"the quietest third is {quiet / max(loud, v.unit):.3g} times as far off as the loudest: "
        "something is added to the clip or its power: noise, dither, few bits, what a window leaks"
    )
