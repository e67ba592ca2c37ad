"""Which arithmetic a wrong tensor was computed in, told by the pattern of its errors.

Rounding leaves a fingerprint: the weights of a checkpoint and the features of a clip are rounded in
the same places by every port in the same format. So the port's error, value by value, goes with the
error of our own run in that format, and no other mistake's does.

    # T positions  S state
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ..diagnosis.encoder import variant
from ..diagnosis.match import AS_IT_IS, Candidate, cut
from ..mistakes.entry import EncoderMistake
from ..noise import PASS_LIMIT, Array, least_floor, rms
from .kinds import AS_STORED, BLOCKS, EXACT, FACTORS, FIRST, STORED, WHOLE

SURE = 0.9  # of a fingerprint: no other kind need be tried
CLEAR = 0.4  # what differs between right ports of a kind leaves as much
FAINT = 0.1  # what other mistakes' errors seldom reach by chance
UNEVEN = 8.0  # no position or channel is so many times further off than the median one
LEAST = 0.2  # of the error of a port that rounds the factors alone: one that rounds in fewer places
FAR = 1000.0  # times that error: no rounding of results, which come on top, is so much more
FEW_BITS = ("float16", "tf32", "bfloat16")
ACTIVATIONS = ("q8_0", "int8", "int8-tensor")
WIDE = ("float16", "bfloat16", "f16")  # of weights
LIMIT = PASS_LIMIT["float16"]
NOTHING = 1e-300  # divides what is zero


class Arithmetic(NamedTuple):
    computed_in: str  # of FACTORS, or EXACT
    stored_in: str  # of STORED, or AS_STORED
    like: float = 0.0  # how much the error is like that of this arithmetic

    @property
    def clear(self) -> bool:
        """Is the fingerprint proof enough, whatever mistakes may fit?"""
        return self.like >= CLEAR


def arithmetics(candidate: Candidate, entry: EncoderMistake = AS_IT_IS) -> list[Arithmetic]:
    """What the candidate may have been computed in, likeliest first, as far as nothing was said.

    entry: a mistake that it has as well; the candidate's truth is then this mistake's own tensor.
    """
    pipeline = candidate.pipeline
    error = candidate.values.astype(np.float64) - candidate.truth
    said = pipeline.computed_in, pipeline.stored_in
    seen: list[Arithmetic] = []
    if said[0] is None:
        seen += in_products(candidate, entry, error, FEW_BITS)
    if said[1] in (None, *BLOCKS):
        # Who rounds every factor rounds the weights too: which of the two is it?
        doubt = any(found.clear for found in seen)
        kinds = WIDE if doubt else [k for k in STORED if not k.endswith((FIRST, WHOLE))]
        if not any(found.like >= SURE for found in seen):
            seen += in_weights(candidate, entry, error, [said[1]] if said[1] else kinds)
    if said[0] is None and not any(found.clear for found in seen):
        seen += in_8_bits(candidate, entry, error, [said[1]] if said[1] else list(STORED)[3:])
    return sorted(seen, key=lambda found: -round(found.like, 2))


def as_computed(candidate: Candidate, entry: EncoderMistake, other: Arithmetic) -> Array:
    """The candidate's stage with the mistake made, in this arithmetic; float64."""
    pipeline = candidate.pipeline.in_fewer_bits(other.computed_in, other.stored_in)
    pipeline.inputs.update(candidate.pipeline.inputs)  # they passed, whatever this block is in
    return variant(candidate._replace(pipeline=pipeline), entry)


# --- products -------------------------------------------------------------------------------------


def in_products(
    candidate: Candidate, entry: EncoderMistake, error: Array, kinds: Iterable[str]
) -> list[Arithmetic]:
    """Right products of these kinds. TF32 has as many bits as float16, and is tried after it."""
    likely = []
    for kind in kinds:
        found = Arithmetic(kind, candidate.pipeline.stored_in or AS_STORED)
        within, like = weighed(candidate, entry, error, found)
        if within and like >= FAINT:
            likely.append(found._replace(like=like))
        if within and like >= CLEAR and kinds is FEW_BITS:
            break
    return likely


def in_8_bits(
    candidate: Candidate, entry: EncoderMistake, error: Array, kinds: Iterable[str]
) -> list[Arithmetic]:
    """Activations in 8 bits, with the checkpoint's weights or those of the likeliest kind.

    8 bits are noisy enough to hide most mistakes: only a clear fingerprint will do.
    """
    found = max(
        in_products(candidate, entry, error, ACTIVATIONS),
        key=lambda found: found.like,
        default=Arithmetic(EXACT, AS_STORED),
    )
    if not found.clear:
        return []
    both = [found]
    for kind in kinds:
        if not kind.endswith((FIRST, WHOLE)):
            other = found._replace(stored_in=kind)
            made = as_computed(candidate, entry, other) - candidate.truth
            both.append(other._replace(like=alike(error, made)))
    return [max(both, key=lambda one: one.like)]


def weighed(
    candidate: Candidate, entry: EncoderMistake, error: Array, found: Arithmetic
) -> tuple[bool, float]:
    """Is the error, evenly, that of a right port in this arithmetic, and how much is it like it?"""
    stage, truth = candidate.stage, candidate.truth
    pipeline = candidate.pipeline.in_fewer_bits(found.computed_in, found.stored_in)
    factors = as_computed(candidate, entry, found) - truth
    if not (rms(error) <= FAR * rms(factors)):  # NaN too, where float16 overflows
        return False, 0.0
    right = truth if entry is AS_IT_IS else variant(candidate)
    results = cut(candidate, pipeline.right_port([stage], "float32")[stage]) - right
    unit = max(rms(results), least_floor(truth))
    within = bool(LEAST * rms(factors) <= rms(error) <= LIMIT * unit)
    if entry is AS_IT_IS:  # a mistake moves the noise to other channels
        within = within and even(error, results)
    return within, max(alike(error, factors), alike(error, results))


def even(error: Array, usual: Array) -> bool:
    """Does no position and no channel stand out, next to those of a right port?"""
    for axis in (-1, -2):
        ratio = norms(error, axis) / (norms(usual, axis) + least_floor(usual))
        if not (ratio.max() <= UNEVEN * max(float(np.median(ratio)), LEAST)):
            return False
    return True


def norms(x: Array, axis: int) -> Array:
    return np.asarray(np.sqrt(np.mean(x**2, axis=axis)))


def alike(a: Array, b: Array) -> float:
    """The correlation of two errors, -1 to 1, once by channel and once by position too.

    A few channels and positions of a trained model are hundreds of times larger than the rest; two
    errors that have nothing else in common share those.
    """
    channels = float(np.mean(balanced(a, [-2]) * balanced(b, [-2])))
    both = [-2, -1, -2, -1]
    return min(channels, float(np.mean(balanced(a, both) * balanced(b, both))))


def balanced(x: Array, axes: list[int]) -> Array:
    """Mean 0 and mean square 1 along each of these axes in turn."""
    for axis in axes:
        x = x - x.mean(axis=axis, keepdims=True)
        x = x / (np.sqrt((x**2).mean(axis=axis, keepdims=True)) + NOTHING)
    return x


# --- weights --------------------------------------------------------------------------------------


def in_weights(
    candidate: Candidate, entry: EncoderMistake, error: Array, kinds: Iterable[str]
) -> list[Arithmetic]:
    """The likeliest of these kinds of weights, with the products that explain what is left."""
    runs: dict[str, float] = {}
    for kind in kinds:
        runs[kind] = likeness(candidate, entry, error, kind)
        if runs[kind] >= SURE:
            break
    best = max(runs, key=runs.__getitem__)
    if best in BLOCKS and runs[best] >= FAINT:
        for kind in (best + FIRST, best + WHOLE):
            runs[kind] = likeness(candidate, entry, error, kind)
        best = max(runs, key=runs.__getitem__)
    factors = factors_of(candidate, entry, best) if runs[best] >= FAINT else None
    return [Arithmetic(factors, best, runs[best])] if factors else []


def likeness(candidate: Candidate, entry: EncoderMistake, error: Array, kind: str) -> float:
    made = as_computed(candidate, entry, Arithmetic(EXACT, kind)) - candidate.truth
    # Formats that leave these weights as they are, as blocks of 32 do a state of 26, err nowhere.
    return alike(error, made) if rms(made) > LIMIT * candidate.floor else 0.0


def factors_of(candidate: Candidate, entry: EncoderMistake, stored: str) -> str | None:
    """The products of most bits that, with such weights, explain what is left; None if none do."""
    exact = as_computed(candidate, entry, Arithmetic(EXACT, stored))
    left = candidate.values - exact
    said = candidate.pipeline.computed_in
    if said in (None, EXACT) and rms(left) <= LIMIT * candidate.floor:
        return EXACT
    known = FEW_BITS if stored in WIDE else tuple(FACTORS)
    for kind in known if said is None else (said,):
        made = as_computed(candidate, entry, Arithmetic(kind, stored)) - exact
        # 8 bits are noisy enough to hide most mistakes.
        enough = CLEAR if kind in ACTIVATIONS else FAINT
        if rms(left) <= LIMIT * rms(made) and alike(left, made) >= enough:
            return kind
    return None
