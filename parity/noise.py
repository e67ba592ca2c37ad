"""How far a tensor is from the truth, in units of what its number type costs anyone.

`truth` is float64. `floor` is the root mean square of the error that a right implementation makes
in the candidate's type. The candidate's own error is reported in multiples of it: 1 is as good as
the library it ports, 2 still is; a forgotten bias is thousands. Written so that NaN fails: never
`error > bound`, always `not (error <= bound)`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

PASS, NOISY, WRONG, SHAPE, MISSING = "PASS", "NOISY", "WRONG", "SHAPE", "MISSING"

# Two right implementations differ in the order of their sums, each as far from the truth as the
# floor: 2 leaves room for one that orders worse, 3 for types whose few bits make noise less even.
PASS_LIMIT = {"float64": 2.0, "float32": 2.0, "float16": 3.0, "bfloat16": 3.0}
NOISY_LIMIT = 10.0

EPS = {"float64": 2.0**-23, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
# No floor is less than this many ulp of the tensor's scale, so that an exact reference does not
# make the next rounding a mistake. In 16 bits an ulp is large, and storing rounds by at most half.
LEAST_ULP = {"float64": 4.0, "float32": 4.0, "float16": 0.5, "bfloat16": 0.5}

# A step (frame or position) is bad if its own error is this many floors: rare under honest noise.
BAD_STEP = 10.0


class Error(NamedTuple):
    """A candidate's distance from the truth."""

    verdict: str
    noise: float  # rms error in units of the floor; NaN or infinity for what is not finite
    max_abs: float
    worst: tuple[int, ...]  # index of the worst value, or of the first that is not finite


def rms(x: Array) -> float:
    """Root mean square of a real or complex array of any shape; 0 for an empty one."""
    if not x.size:
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.sqrt(np.mean(np.square(np.abs(x), dtype=np.float64))))


def least_floor(truth: Array, dtype: str = "float32") -> float:
    """The smallest floor that a tensor of this scale can have in this type."""
    # A tensor of zeros has no scale: the smallest normal number stands for it.
    return max(rms(truth) * EPS[dtype] * LEAST_ULP[dtype], 2.0**-126)


def noise_floor(truth: Array, sane: Array, dtype: str = "float32") -> float:
    """rms error of `sane`, a right implementation in this type, but at least `least_floor`."""
    error = rms(widen(sane) - truth)
    return (
        max(error, least_floor(truth, dtype)) if np.isfinite(error) else least_floor(truth, dtype)
    )


def widen(x: Array) -> Array:
    """float64, or complex128 for what is complex."""
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64, copy=False)


def verdict(noise: float, dtype: str = "float32") -> str:
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
    finite = np.isfinite(distance)
    if not finite.all():
        first = np.unravel_index(int(np.argmin(finite)), distance.shape)
        return Error(WRONG, float("nan"), float("nan"), tuple(int(i) for i in first))
    noise = rms(distance) / floor
    worst = np.unravel_index(int(np.argmax(distance)), distance.shape)
    return Error(verdict(noise, dtype), noise, float(distance.max()), tuple(int(i) for i in worst))


def step_errors(candidate: Array, truth: Array, axis: int) -> Array:
    """rms error of every step along an axis (frames or positions): (steps,) float64."""
    distance = np.abs(widen(candidate) - truth)
    others = tuple(i for i in range(distance.ndim) if i != axis % distance.ndim)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(np.sqrt(np.mean(distance**2, axis=others)))
