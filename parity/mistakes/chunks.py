"""Entries whose length is found in the candidate: chunks, and last frames that nobody wrote.

The catalogue lists the kinds for one length each; `found` makes entries of other lengths.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..noise import Array, step_errors
from .entry import FrontEndMistake, mistake

LIKELY = (20, 50, 100, 200, 300, 500, 1000, 3000)  # frames of 10 ms
LISTED = 10  # frames: the chunks of the catalogue
SHORTEST = 3  # frames
UNWRITTEN = 8  # frames: 3000 is 187 tiles of 16 and 8 frames more
SMALLEST_TILE, LARGEST_TILE = 16, 1024  # frames


def of_length(n: int) -> list[FrontEndMistake]:
    """The kinds, for chunks of n frames."""
    chunks, about = f"chunks of {n} frames", f"computed in chunks of {n} frames, {n / 100:g} s"
    kinds: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("reflected", "each reflected at its own ends, as if the clip ended there", {"chunk": n}),
        (
            "zeros between",
            "each with zeros at its own ends, as if the clip ended there",
            {"chunk": n, "pad_mode": "constant"},
        ),
        ("own maximum", "each clamped below its own maximum", {"max_chunk": n}),
        (
            "maximum so far",
            "each clamped below the maximum up to its end",
            {"max_chunk": n, "max_running": True},
        ),
        (
            "reflected, own maximum",
            "each reflected at its own ends and clamped below its own maximum",
            {"chunk": n, "max_chunk": n},
        ),
        (
            "zeros between, own maximum",
            "each with zeros at its own ends and clamped below its own maximum",
            {"chunk": n, "pad_mode": "constant", "max_chunk": n},
        ),
        (
            "reflected, no frame dropped",
            "each reflected at its own ends, and each keeps its last frame",
            {"chunk": n, "drop": None},
        ),
    )
    return [mistake(f"{chunks}, {k}: {about}, {what}", **change) for k, what, change in kinds]


def unwritten(n: int) -> FrontEndMistake:
    return mistake(
        f"last frames unwritten: the last {n} frames are 0: the last tile is not whole, and nobody "
        "computes it",
        unwritten=n,
    )


CHUNKS = [*of_length(LISTED), unwritten(UNWRITTEN)]


def found(values: Array, truth: Array, floor: float) -> list[FrontEndMistake]:
    """Entries of the lengths that are likely, and of those that a candidate (..., M, F) shows."""
    if values.ndim < 2:
        return []
    n_frames = values.shape[-1]
    lengths = {*LIKELY, *period(values, truth, floor)} - {LISTED}
    entries = [entry for n in sorted(lengths) if n < n_frames for entry in of_length(n)]
    zero = ~np.any(values, axis=tuple(range(values.ndim - 1)))  # (F,)
    n = 0 if zero.all() else int(np.argmin(zero[::-1]))  # no tile, where no frame is written
    if n not in (0, UNWRITTEN) and n < LARGEST_TILE and (n_frames - n) % SMALLEST_TILE == 0:
        entries.append(unwritten(n))
    return entries


def period(values: Array, truth: Array, floor: float) -> list[int]:
    """The number of frames at whose multiples the errors are larger than elsewhere, if any is."""
    if values.shape != truth.shape or truth.shape[-1] < 3 * (SHORTEST + 1):
        return []
    size = np.log(np.maximum(step_errors(values, truth, -1), floor))  # (F,)
    tried = np.arange(SHORTEST, len(size) // 3)
    above = np.array([size[n::n].mean() for n in tried]) - size.mean()
    counts = np.array([len(size[n::n]) for n in tried])
    best = np.argmax(above * np.sqrt(counts))  # a mean of few says less than one of many
    return [int(tried[best])] if above[best] > np.log(2) else []
