"""Right numbers in the wrong place: shifted, reversed, in another order, repeated.

# n indices of the axis  R everything else
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...noise import Array
from .places import listed, ranges
from .view import BAD, TIMES, View, many

MOST_WORK = 4e9  # products to find each index in the truth's: a second
OVERLAP = 0.5  # of an axis that is found in the truth, at the least
ALL = 0.98  # of the indices that must obey a rule: silence has no place of its own
LARGE = 1e6  # times the largest of the truth: no row of it
PLAIN = 12  # indices up to which an order is written out


def moved(v: View, axis: int) -> str:
    """How the indices of an axis have changed places; "" if they have not."""
    n, name = v.mine.shape[axis], v.names[axis]
    mine, truth = rows(v.mine, axis), rows(v.truth, axis)
    again = repeated(name, mine, truth, BAD * v.unit)
    if n < 2 or v.mine.size < 4 * n or n * v.mine.size > MOST_WORK:
        return again
    source = sources(mine, truth, v.unit)
    if source is None:
        return again
    changed = np.flatnonzero(source != np.arange(n))
    if (source >= 0).mean() < OVERLAP or (source[changed] >= 0).mean() < 0.9:
        return again
    for text, order in orders(name, source):
        inside = np.flatnonzero((order >= 0) & (order < n))
        far = np.abs(mine[inside] - truth[order[inside]]).max(1)
        near = far <= np.maximum(10 * BAD * v.unit, np.abs(mine - truth).max() / TIMES / 10)
        if len(inside) > n * OVERLAP and near.mean() >= ALL:
            return text
    return again or in_words(name, source, changed[source[changed] >= 0])


def rows(x: Array, axis: int) -> Array:
    """(n, R), real"""
    flat = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    return np.concatenate([flat.real, flat.imag], 1) if np.iscomplexobj(flat) else flat


def sources(mine: Array, truth: Array, unit: float) -> Array | None:
    """For each row of `mine` the row of the truth that it is, -1 for none. Its own goes first.

    None if no row is another one's.
    """
    # A tensor whose rows are all alike has every row everywhere.
    if not (np.sqrt(((truth - truth.mean(0)) ** 2).mean()) > TIMES * unit):
        return None
    scale = float(np.abs(truth).max())
    a = (mine / scale).clip(-LARGE, LARGE).astype(np.float32)
    b = (truth / scale).astype(np.float32)
    nearest = ((b * b).sum(1) - 2 * (a @ b.T)).argmin(1)  # (n,)
    far = np.sqrt(((mine - truth) ** 2).mean(1))
    left = np.sqrt(((mine - truth[nearest]) ** 2).mean(1))
    own = far <= BAD * unit
    other = ~own & (left <= np.maximum(BAD * unit, far / TIMES / 10))
    if not other.any():
        return None
    return np.where(own, np.arange(len(mine)), np.where(other, nearest, -1))


def orders(name: str, source: Array) -> Iterator[tuple[str, Array]]:
    """Rules that an order may have, in words, with the row of the truth that each row then is."""
    n, plural = len(source), many(name, 2)
    i = np.arange(n)
    steps = (source - i)[(source >= 0) & (source != i)]
    step = int(np.bincount(steps + n).argmax()) - n
    if abs(step) < n / 2:
        by = f"{abs(step)} {many(name, abs(step))}"
        lag = f"{name} i is the truth's {name} i {'+' if step > 0 else '-'} {abs(step)}"
        yield f"{lag}: {by} {'early' if step > 0 else 'late'}", i + step
    yield f"the {plural} are in reverse order", n - 1 - i
    if n % 2 == 0:
        yield f"the two halves of the {plural} are swapped", (i + n // 2) % n
        yield f"neighbouring {plural} are swapped, two by two", i ^ 1
    for p in range(2, n // 2 + 1):
        if n % p == 0:
            order = i.reshape(p, -1).T.ravel()
            if (source == order).mean() > OVERLAP:
                text = f"the {plural} are in another order, as if ({p}, {n // p}) were transposed"
                yield text, order


def in_words(name: str, source: Array, known: Array) -> str:
    """An order with no rule: which indices, and which of the truth's they are."""
    plural, taken = many(name, 2), np.unique(source[known])
    if len(known) == 1:
        return f"{name} {known[0]} is the truth's {name} {source[known[0]]}"
    if len(taken) == 1:
        return f"{plural} {listed(known)} are all the truth's {name} {taken[0]}"
    pairs = [
        f"{i} is the truth's {source[i]}" for i in known[: PLAIN if len(source) <= PLAIN else 4]
    ]
    more = "" if len(pairs) == len(known) else ", ..."
    return f"{plural} {listed(known)} are other {plural}: {', '.join(pairs)}{more}"


def repeated(name: str, mine: Array, truth: Array, bound: float) -> str:
    """Rows that are exactly the one before them, where the truth's are not."""
    same = (mine[1:] == mine[:-1]).all(1) & (mine[1:] != mine[1:, :1]).any(1)
    far = np.sqrt(((truth[1:] - truth[:-1]) ** 2).mean(1)) > bound
    right = np.sqrt(((mine - truth) ** 2).mean(1)) <= bound
    bad = np.flatnonzero(same & far & ~right[1:]) + 1
    if len(bad) < 2:
        return ""
    if len(ranges(bad)) == 1:
        return f"{many(name, len(bad))} {listed(bad)} repeat {name} {bad[0] - 1}"
    return f"{many(name, len(bad))} {listed(bad)} are each exactly the one before"
