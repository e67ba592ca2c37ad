"""What mistakes do to the pictures: right, wrong and difference, within the size of the page.

# L blocks  H heads  T positions  S state  F frames
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config import EncoderConfig
from .figures import ATTENTION_LEVELS, STEM, faintest, numbers_of, of_states
from .measure import AttentionMaps, Reached, Seen
from .picture import LEVELS, Picture, png, rgb, spread

Array = NDArray[Any]
ROOM = 3_400_000  # characters of the pictures of all mistakes of the encoder
# Those that are left out first if not all fit, and what the page calls them.
LAST = {
    "before": "the state before the last norm",
    "cosine": "the cosine",
    "attention": "attention",
}

Entry = dict[str, Any]  # name, sentence, stage, seen; change, or noise, pictures and missing


class Mistakes(NamedTuple):
    """What the page can show of mistakes: `parity.pages.what_if` has them."""

    front_end: list[Entry]  # made by the page itself, as "change" says
    encoder: Iterable[tuple[Entry, Reached, Reached]]  # each, what is right, and what it does
    least_noise: float  # one unit of noise, as a share of a stage's size


def all_drawn(
    mistakes: Mistakes, seen: Seen, drawn: Mapping[str, Picture], config: EncoderConfig
) -> list[Entry]:
    """All of them, the encoder's with their pictures; drawn: the right ones, by name."""
    before: dict[str, Array] = {}  # the same for all of them
    of_encoder = []
    for entry, right, wrong in mistakes.encoder:
        before = before or of_states(right.states, seen)
        made = changed(before, of_states(wrong.states, seen), drawn)
        group, n_audio_ctx = seen.attention.group, config.n_audio_ctx
        if attention := changed_attention(right.attention, wrong.attention, group, n_audio_ctx):
            made["attention"] = attention
        of_encoder.append(entry | {"pictures": made})
    return mistakes.front_end + fitted(of_encoder)


def changed(
    before: dict[str, Array], after: dict[str, Array], drawn: Mapping[str, Picture]
) -> dict[str, Any]:
    """The encoder's pictures with a mistake, in the range of the right ones, and the difference.

    Of each that differs by more than rounding: "wrong" and "difference", data: URIs, and "size",
    the range of the difference.
    """
    apart = {name: x - before[name] for name, x in after.items()}
    sizes = {
        name: spread(x, 0.995)
        for name, x in apart.items()
        if np.abs(x).max() > 1e-5 * (drawn[name].high - drawn[name].low)
    }
    for both in STEM.values():  # one scale stands below them
        if size := max(sizes.get(name, 0.0) for name in both):
            sizes |= dict.fromkeys(both, size)
    found = {}
    for name, size in sizes.items():
        p = drawn[name]
        found[name] = {
            "wrong": png(after[name], p.low, p.high, rgb(p.palette, LEVELS)),
            "difference": png(apart[name], -size, size, rgb("berlin", LEVELS)),
            "size": size,
        }
    return found


def changed_attention(
    right: AttentionMaps, wrong: AttentionMaps, group: int, n_audio_ctx: int
) -> dict[str, Any] | None:
    """The same of attention, in the colours of pictures with so many positions a pixel.

    Both are coarser. So a pixel is the mean share of that many keys, not the sum over all its own.
    The difference is one of logarithms. None if there is none.
    """
    low, palette = faintest(group, n_audio_ctx), rgb("magma", ATTENTION_LEVELS)
    before, after = (
        np.log10(np.maximum(maps.shares * (group / maps.group), 10**low))[:, :, ::-1]
        for maps in (right, wrong)
    )
    apart = after - before
    if np.abs(apart).max() <= 1e-5 * -low:
        return None
    size, signs = spread(apart, 0.995), rgb("berlin", LEVELS)
    return {
        "wrong": [[png(head, low, 0.0, palette) for head in block] for block in after],
        "difference": [[png(head, -size, size, signs) for head in block] for block in apart],
        "size": size,
        **numbers_of(wrong),
    }


def fitted(entries: list[Entry]) -> list[Entry]:
    """Mistakes without the pictures that there is no ROOM for, of which "missing" has the names."""
    size = {(i, n): len(str(p)) for i, e in enumerate(entries) for n, p in e["pictures"].items()}
    excess, missing = sum(size.values()) - ROOM, set()
    for name in LAST:
        for i in reversed(range(len(entries))):
            if excess > 0 and (i, name) in size:
                excess -= size[i, name]
                missing.add((i, name))
    return [
        entry
        | {"pictures": {n: p for n, p in entry["pictures"].items() if (i, n) not in missing}}
        | {"missing": [called for name, called in LAST.items() if (i, name) in missing]}
        for i, entry in enumerate(entries)
    ]
