"""Frames that begin some samples early or late.

# B batch  F frames  N n_fft  K frequencies  M mel bins
"""

from __future__ import annotations

import numpy as np

from melfront import variants
from melfront.conventions import HOP_LENGTH, N_FFT

from ...noise import Array, rms
from ...pipeline import Pipeline
from .view import TIMES, View, many

STAGES = ("power", "mel", "log", "clamped", "features")
FARTHEST = N_FFT  # samples
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
    first = -(-FARTHEST // HOP_LENGTH)
    inside = np.arange(first, len(loudness) - first - 1)
    if not inside.size:
        return ""
    chosen = inside[np.argsort(loudness[inside])[-LOUDEST:]]
    mine, truth = mine[chosen], (v.truth if stage == "power" else v.truth.T)[chosen]
    keep = (
        mine > mine.min() + 1e-3 if stage in ("clamped", "features") else np.ones(mine.shape, bool)
    )
    errors = {}
    for late in range(-FARTHEST, FARTHEST + 1):
        starts = HOP_LENGTH * chosen - late
        frames = padded[starts[:, None] + np.arange(N_FFT)]  # (F, N)
        errors[late] = rms((values(pipeline, stage, frames) - mine)[keep])
    late = min(errors, key=errors.__getitem__)
    if not late or not (TIMES * errors[late] <= rms((mine - truth)[keep])):
        return ""
    samples = f"{abs(late)} {many('sample', abs(late))} {'late' if late > 0 else 'early'}"
    header = ": the 44 bytes of a WAV file's header, read as samples" if late == 22 else ""
    return f"every frame is that of a clip that comes {samples}{header}"


def values(pipeline: Pipeline, stage: str, frames: Array) -> Array:
    """What a stage has of these frames (F, N): (F, K) or (F, M); nothing is clamped."""
    c = pipeline.convention
    x = variants.power(variants.spectrum(frames * variants.window(c), c), c)  # (F, K)
    if stage == "power":
        return x
    x = variants.mel(x, c, pipeline.n_mels).T  # (F, M)
    if stage == "mel":
        return x
    x = variants.log(x, c)
    return (x + c.offset) / c.divisor if stage == "features" else x


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
