"""Which frames, positions, bins, channels or heads are bad: as ranges, and with their period."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...noise import Array
from .view import BAD, View, many

SHOWN = 3  # ranges before the dots
MOST = 0.75  # of an axis: if more is bad, its places say nothing
FEW_RANGES, FEW = 6, 0.05  # more ranges than this say something only if little of the axis is bad
LOW = 4  # mels
HITS, RECALL = 0.5, 0.9  # of a period's places that are bad, and of the bad that it holds
NARROWER = 0.7
SHARE, OFTEN = 1 / 3, 4  # of a period that may be bad at the most; how often it must come


def ranges(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of neighbours in increasing numbers: [1, 2, 3, 7] is [(1, 3), (7, 7)]."""
    runs: list[tuple[int, int]] = []
    for i in indices:
        runs[-1:] = [(runs[-1][0], i)] if runs and i == runs[-1][1] + 1 else [*runs[-1:], (i, i)]
    return runs


def listed(indices: Iterable[int]) -> str:
    """`0, 99-100, 199-200, ..., 2999`"""
    words = [f"{a}-{b}" if b > a else str(a) for a, b in ranges(indices)]
    if len(words) > SHOWN + 2:
        words[SHOWN:-1] = ["..."]
    return ", ".join(words)


def period(bad: Array) -> str:
    """The period in which increasing numbers come, in words; "" if there is none.

    Chunks that touch silence may not be bad, so a few may be missing.
    """
    if len(bad) < 4:
        return ""
    span, best, found = int(bad[-1]) + 1, np.inf, ""
    for p in range(2, span // OFTEN + 1):
        hits, places = np.bincount(bad % p, minlength=p), np.bincount(np.arange(span) % p)
        chosen = hits >= HITS * places
        held = hits[chosen].sum() >= RECALL * len(bad) and chosen.sum() <= max(1, SHARE * p)
        # The shortest, but for a longer one that says it much more narrowly.
        if held and len(ranges(np.flatnonzero(chosen))) <= 2 and places[chosen].sum() < best:
            best, found = NARROWER * places[chosen].sum(), in_period(chosen, p)
    return found


def in_period(chosen: Array, p: int) -> str:
    """Which places of a period these are: the first and last of every 100."""
    first = int(np.argmin(chosen))  # how many at the beginning
    last = int(np.argmin(chosen[::-1]))
    if first + last < chosen.sum():
        runs = listed(np.flatnonzero(chosen))
        return f"{runs} of every {p}"
    words = [
        f"the {which}{f' {count}' * (count > 1)}"
        for which, count in (("first", first), ("last", last))
        if count
    ]
    return f"{' and '.join(words)} of every {p}"


def bad_indices(v: View, axis: int) -> Array | None:
    """The bad indices of an axis, where only some are, and where their places say something."""
    errors, n = v.per(axis), v.mine.shape[axis]
    bad = np.flatnonzero(~(errors <= BAD * v.unit))
    if not 0 < len(bad) <= MOST * n:
        return None
    structured = len(ranges(bad)) <= FEW_RANGES or len(bad) <= FEW * n or period(bad)
    return bad if structured else None


def places(v: View) -> list[tuple[int, Array]]:
    """The axes of which only some indices are bad, and which those are."""
    found = [(axis, bad_indices(v, axis)) for axis in v.axes()]
    return [(axis, bad) for axis, bad in found if bad is not None]


def place_line(v: View, axis: int, bad: Array) -> str:
    """`25 of 1500 positions are bad: 3, 80-99, ..., 1400: the first 2 of every 50`"""
    name, n = v.names[axis], v.mine.shape[axis]
    line = (
        f"{len(bad)} of {n} {many(name, n)} {'is' if len(bad) == 1 else 'are'} bad: {listed(bad)}"
    )
    if found := period(bad):
        return f"{line}: {found}"
    if len(bad) > 1 and bad[-1] == n - 1 and bad[-1] - bad[0] == len(bad) - 1:
        return f"{line}: the last {len(bad)}"
    if name == "mel" and bad[0] == 0 and bad[-1] == len(bad) - 1 < LOW:
        return f"{line}: the lowest frequencies, as if a mean were taken off"
    return line
