"""Noise: how far right computations are from float64, and every error counted in units of it.

Float32, float16 and bfloat16 cost accuracy, even where nothing is wrong. One *unit of noise* is the
rms error, against float64, of a computation that is known to be right: an error of 1 x noise is as
good as that one, 2 still is, and a forgotten bias is thousands. Which right computation that is
depends on what is judged; UNITS lists all of them, and each report names its own.

Comparisons are written so that NaN fails: never `error > bound`, always `not (error <= bound)`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

EPS = {"float64": 2.0**-23, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
# No unit is smaller than this many ulp of the tensor's scale, so that an exact reference does not
# make the next rounding a mistake. In 16 bits an ulp is large, and storing rounds by at most half.
LEAST_ULP = {"float64": 4.0, "float32": 4.0, "float16": 0.5, "bfloat16": 0.5}
FOREIGN_ULP = 16.0  # what two float32 implementations typically differ by

# What is judged, and what one unit of noise is the error of.
UNITS = {
    # a tensor, by `parity compare`: run here, on the same clip, in the tensor's type
    "transformers": "transformers' own computation of this clip",
    # a tensor, by `parity compare` with a reference that publishes `floor.STAGE`, as our dumps do
    "published": "the noise that the reference publishes",
    # a tensor, by `parity compare` with another program's tensors
    "foreign": f"{FOREIGN_ULP:g} ulp of float32, as the reference publishes no noise",
    # a tensor, by `parity compare --forced`, whose inputs are all given: little can add up
    "step": f"{LEAST_ULP['float32']:g} ulp of float32, or {LEAST_ULP['float16']:g} in 16 bits",
    # what `reference_data` publishes: the largest that several settings of one machine give
    "several CPUs": "transformers' computation, the largest of several CPUs' kernels and two FFTs",
    # a kernel, by `benchmarks kernel`, case by case
    "op": "the op that the kernel replaces, on the same case and in the same type",
    # a kernel, by `benchmarks kernel`, in the encoder: it grows from block to block
    "encoder": "the encoder with its own ops, at the same depth and in the same type",
}

PASS, NOISY, WRONG, SHAPE, MISSING = "PASS", "NOISY", "WRONG", "SHAPE", "MISSING"
UNJUDGED = "UNJUDGED"  # the clip was resampled, and other resamplers differ by as much
QUANTISED = "QUANTISED"  # right for quantised weights, which nobody said the port has
ACCEPTED = "ACCEPTED"  # further off than right, and no further than the user accepts

# Two right implementations differ in the order of their sums, each one unit from the truth: 2
# leaves room for one that orders worse, 3 for types whose few bits make noise less even.
PASS_LIMIT = {"float64": 2.0, "float32": 2.0, "float16": 3.0, "bfloat16": 3.0}
NOISY_LIMIT = 10.0
# A step (frame or position) is bad if its own error is this many units: rare under honest noise.
BAD_STEP = 10.0


def limits(dtype: str, unit: str) -> str:
    """The type whose limits hold for a tensor: with factors of fewer bits those of 16 bits."""
    return dtype if unit in UNITS else "float16"


def unit_text(unit: str) -> str:
    """Whose error a unit is: a key of UNITS, or words for factors of fewer bits."""
    return UNITS.get(unit, f"a right port of this clip with {unit}")


def unit_line(*units: str) -> str:
    """The line of a report that says what one unit of noise is. units: keys of UNITS."""
    texts = [unit_text(unit) for unit in dict.fromkeys(units)]
    return f"one unit of noise is the error of {' or of '.join(texts)}"


class Floor(NamedTuple):
    """One unit of noise of a stage."""

    rms: float
    unit: str  # a key of UNITS: whose error it is


class Error(NamedTuple):
    """A candidate's distance from the truth."""

    verdict: str
    noise: float  # rms error in units of noise; NaN or infinity for what is not finite
    max_abs: float
    worst: tuple[int, ...]  # index of the worst value, or of the first that is not finite


def rms(x: Array) -> float:
    """Root mean square of a real or complex array of any shape; 0 for an empty one."""
    if not x.size:
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        flat = widen(x).ravel()
        parts = (flat.real, flat.imag) if np.iscomplexobj(flat) else (flat,)
        # A product with itself: a mean of squares makes two arrays of this size first.
        total = sum(float(np.einsum("i,i", part, part)) for part in parts)
    return float(np.sqrt(total / x.size))


def least_floor(truth: Array, dtype: str = "float32") -> float:
    """The smallest unit that a tensor of this scale can have in this type."""
    # A tensor of zeros has no scale: the smallest normal number stands for it.
    return max(rms(truth) * EPS[dtype] * LEAST_ULP[dtype], 2.0**-126)


def foreign_floor(truth: Array) -> float:
    """The unit for another program's tensor, of which nothing more is known: FOREIGN_ULP."""
    return FOREIGN_ULP / LEAST_ULP["float32"] * least_floor(truth)


def noise_floor(truth: Array, sane: Array, dtype: str = "float32") -> float:
    """The unit that `sane`, a right computation in this type, gives: at least `least_floor`."""
    error, least = rms(widen(sane) - truth), least_floor(truth, dtype)
    return max(error, least) if np.isfinite(error) else least


def widen(x: Array) -> Array:
    """float64, or complex128 for what is complex."""
    with np.errstate(invalid="ignore"):  # of a NaN that signals
        return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64, copy=False)


def verdict(noise: float, dtype: str = "float32") -> str:
    """PASS, NOISY or WRONG for an error in units of noise; WRONG for NaN."""
    if noise <= PASS_LIMIT[dtype]:
        return PASS
    return NOISY if noise <= NOISY_LIMIT else WRONG


def error(candidate: Array, truth: Array, floor: float, dtype: str = "float32") -> Error:
    """Measure a candidate of the truth's shape; raises ValueError for another shape."""
    if candidate.shape != truth.shape:
        raise ValueError(f"candidate has shape {candidate.shape}, the truth {truth.shape}")
    if not truth.size:
        return Error(PASS, 0.0, 0.0, ())
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(widen(candidate) - truth)
    worst = np.unravel_index(int(np.argmax(distance)), distance.shape)  # or the first NaN
    most = float(distance[worst])
    if not np.isfinite(most):
        first = np.unravel_index(int(np.argmin(np.isfinite(distance))), distance.shape)
        return Error(WRONG, float("nan"), float("nan"), tuple(int(i) for i in first))
    noise = rms(distance) / floor
    return Error(verdict(noise, dtype), noise, most, tuple(int(i) for i in worst))


def step_errors(candidate: Array, truth: Array, axis: int) -> Array:
    """rms error of every step along an axis (frames or positions): (steps,) float64."""
    distance = np.abs(widen(candidate) - truth)
    others = tuple(i for i in range(distance.ndim) if i != axis % distance.ndim)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(np.sqrt(np.mean(distance**2, axis=others)))
