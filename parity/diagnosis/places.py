"""A mistake made in some places and not in all: which entry of the catalogue, and where.

An entry acts at stages: a GELU at gelu1, gelu2 and every block's mlp.gelu. Where no entry fits made
everywhere, those whose own error is most like the candidate's are made in parts of the model: the
blocks, the stem, one block, one half of every block. Small errors add up, so that the errors of the
single parts also tell, by least squares, which of them make up the candidate's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped]  # as in encoder/__main__.py

from melfront.command import PROGRESS

from ..mistakes.entry import EncoderMistake
from ..mistakes.steps import stage_of
from ..noise import Array
from ..stages import LN_POST, STEM, Stage, of_encoder
from .match import (
    Candidate,
    Named,
    States,
    before,
    block_start,
    fits,
    made,
    right_block,
    right_states,
    takes_long,
    tried,
)

PASSES = 20.0  # that a search may take, in runs of the whole encoder
SOON = 5  # entries that are most like the candidate
MANY = 6  # blocks: in a model of more, single ones are not tried
UNTRIED = (
    "single blocks were not tried, which takes long in a model of {}: save the hidden states too"
)

# The stages, of any block, that call the op of a slot.
CALLS = {
    "conv1d": ("conv1", "conv2"),
    "gelu": ("gelu1", "gelu2", "mlp.gelu"),
    "layer_norm": ("attn_ln", "mlp_ln", "ln_post"),
    "linear": ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.fc1", "mlp.fc2"),
    "qkv": ("attn.q", "attn.k", "attn.v"),
    "scores": ("attn.scores", "attn.weights", "attn.context"),
    "softmax": ("attn.weights", "attn.context"),
    "attention": ("attn.context",),
}
ATTENTION = ("scores", "softmax", "attention")
Stages = frozenset[Stage]


class Place(NamedTuple):
    """Some of the stages at which an entry acts."""

    words: str  # as in "tanh GELU, in the blocks and not in the stem"
    stages: Stages


class Try(NamedTuple):
    """An entry made in one place."""

    named: Named
    error: Array  # what it spoils, flat; empty for another shape
    passes: float  # that it took: runs of the whole encoder


def try_places(candidate: Candidate, whole: list[Named], soon: bool) -> list[Named]:
    """Entries made in some places. The search ends where one fits, or after PASSES.

    whole: every entry made everywhere. soon: only those most like the candidate, in all places;
    otherwise the others, first in the places that take least.
    """
    without = min([candidate.error, *(named.residual for named in whole)])
    block = right_block(candidate)
    states = right_states(candidate) if block is None else block_start(candidate, block)
    ranked = sorted(whole, key=lambda named: -named.likeness)
    entries = [e for n in ranked for e in n.entries if isinstance(e, EncoderMistake)]
    chosen = entries[:SOON] if soon else entries[SOON:]
    alike = [(entry, sites(candidate, entry, block)) for entry in chosen]
    searches = [search(candidate, entry, acts, states) for entry, acts in alike]
    if not soon:
        searches = [quick(candidate, entry, acts, states) for entry, acts in alike] + searches
    found: list[Named] = []
    left = PASSES if takes_long(candidate) else 20 * PASSES
    for one in tqdm(chain.from_iterable(searches), desc="places", unit="", **PROGRESS):
        found.append(one.named._replace(without=without))
        left -= one.passes
        if left < 0 or fits(candidate, found[-1], noisier=False):
            break
    return found


def untried(candidate: Candidate) -> str:
    """What `try_places` leaves out of a large model."""
    n_layer = candidate.pipeline.needed_model().config.n_audio_layer
    return UNTRIED.format(n_layer) if right_block(candidate) is None and n_layer > MANY else ""


def quick(
    candidate: Candidate, entry: EncoderMistake, acts: Stages, states: States
) -> Iterator[Try]:
    """The entry in the last part alone, which takes least; in the blocks alone; in the rest."""
    parts = parts_of(acts)
    last = [some(parts, [label]) for label in list(parts)[-1:] if len(parts) > 1]
    for place in (*last, *halves(parts)):
        yield attempt(candidate, entry, place, states)


def attempt(candidate: Candidate, entry: EncoderMistake, place: Place, states: States) -> Try:
    first = min(place.stages, key=lambda stage: stage.order)
    name = f"{entry.name}, {place.words}"
    there = replace(entry, name=name, stage=first, where=place.stages)
    values: Array = np.empty(0)
    with suppress(RuntimeError):  # one part may not take the shape that the other gives
        values = made(candidate, there, before(states, first))
    same = values.shape == candidate.truth.shape
    error = (values - candidate.truth).astype(np.float32).flatten() if same else np.empty(0)
    n_layer = candidate.pipeline.needed_model().config.n_audio_layer
    start = n_layer if first == LN_POST else first.block or 0
    return Try(tried(candidate, there, values), error, (n_layer - start) / n_layer)


def search(
    candidate: Candidate, entry: EncoderMistake, acts: Stages, states: States
) -> Iterator[Try]:
    """The entry made in every place in which it may be."""
    parts = parts_of(acts)
    errors: dict[Stages, Array] = {acts: np.empty(0)}

    def unseen(places: Iterable[Place]) -> Iterator[Try]:
        for place in places:
            if place.stages and place.stages not in errors:
                done = attempt(candidate, entry, place, states)
                errors[place.stages] = done.error
                yield done

    yield from unseen(coarse(parts, candidate.pipeline.needed_model().config.n_audio_layer))
    singles = [stages for stages in parts.values() if stages in errors and stages != acts]
    if len(singles) == len(parts) > 1:
        chosen = add_up(candidate, [errors[stages] for stages in singles])
        yield from unseen([some(parts, [list(parts)[i] for i in chosen])])
    yield from unseen(fine(acts, entry))


def sites(candidate: Candidate, entry: EncoderMistake, block: int | None) -> Stages:
    """The stages at which an entry acts, as far as the candidate's; in one block, if given."""
    model = candidate.pipeline.needed_model()
    within = {name for slot in entry.ops for name in CALLS[slot]} | entry.rewrite.keys()
    weights = model.state_dict()
    changed = entry.weights(weights) if entry.weights else weights
    names = {stage_of(n) for n, w in weights.items() if not torch.equal(changed[n], w)}
    return frozenset(
        stage
        for stage in of_encoder(model.config.n_audio_layer)
        if stage.order <= candidate.stage.order
        and (stage.within in within or stage in names)
        and (block is None or stage.block == block or stage == LN_POST)
    )


# --- places ---------------------------------------------------------------------------------------


def parts_of(acts: Stages) -> dict[str, Stages]:
    """The parts of the model that these stages are in: the stem, each block, the final norm."""
    parts: dict[str, set[Stage]] = {}
    for stage in sorted(acts, key=lambda stage: stage.order):
        label = {"stem": "the stem", "end": "ln_post"}.get(stage.part, f"block {stage.block}")
        parts.setdefault(label, set()).add(stage)
    return {label: frozenset(stages) for label, stages in parts.items()}


def halves(parts: dict[str, Stages]) -> Iterator[Place]:
    """The blocks without the rest, and the rest without the blocks."""
    blocks = [label for label in parts if label.startswith("block")]
    others = [label for label in parts if label not in blocks]
    if blocks and others:
        yield some(parts, blocks)
        yield some(parts, others)


def coarse(parts: dict[str, Stages], n_layer: int) -> Iterator[Place]:
    """Whole parts: the blocks, what is outside them, single blocks, and many at once."""
    blocks = [label for label in parts if label.startswith("block")]
    others = [label for label in parts if label not in blocks]
    yield from halves(parts)
    if len(parts) > 1:
        yield from (some(parts, [label]) for label in others)
    if len(blocks) > 1:
        single = blocks if n_layer <= MANY else [blocks[0], blocks[-1]]
        yield from (some(parts, [label]) for label in reversed(single))
        half = (len(blocks) + 1) // 2
        for rest in (blocks[1:], blocks[:-1], blocks[:half], blocks[half:]):
            yield some(parts, rest)
            yield some(parts, [label for label in parts if label in (*others, *rest)])


def some(parts: dict[str, Stages], labels: list[str]) -> Place:
    """These parts and no others, in words."""
    stages = frozenset(stage for label in labels for stage in parts[label])
    rest = [label for label in parts if label not in labels]
    blocks = sum(label.startswith("block") for label in parts)
    if len(labels) == 1 and len(rest) > 1:
        return Place(f"in {labels[0]} alone", stages)
    return Place(f"in {joined(labels, blocks)} and not in {joined(rest, blocks)}", stages)


def joined(labels: list[str], blocks: int) -> str:
    """As in "the stem, blocks 0 and 2". blocks: how many the model has."""
    numbers = [label.split()[1] for label in labels if label.startswith("block")]
    words = [label for label in labels if label == "the stem"]
    if numbers and len(numbers) == blocks:
        words.append("the blocks" if blocks > 1 else f"block {numbers[0]}")
    elif len(numbers) > 2 and int(numbers[-1]) - int(numbers[0]) == len(numbers) - 1:
        words.append(f"blocks {numbers[0]} to {numbers[-1]}")
    elif numbers:
        listed = ", ".join(numbers[:-1])
        words.append(f"blocks {listed} and {numbers[-1]}" if listed else f"block {numbers[0]}")
    words += [label for label in labels if label == "ln_post"]
    return " and ".join(words)


def fine(acts: Stages, entry: EncoderMistake) -> Iterator[Place]:
    """One kind of stage: q of every block, one convolution, the attention's half of the blocks."""
    halves = ("attn", "the attention's half of a block"), ("mlp", "the MLP's half of a block")
    for prefix, words in halves:
        half = frozenset(s for s in acts if s.within.startswith(prefix))
        kinds = {s.within for s in half}
        yield Place(f"in {min(kinds) if len(kinds) == 1 else words} alone", half)
    if set(entry.ops) & set(ATTENTION):  # what it does to the scores it does to the context
        return
    for kind in dict.fromkeys(stage.within for stage in sorted(acts, key=lambda s: s.order)):
        if not entry.rewrite or kind in STEM:  # a rewrite may need another one
            yield Place(f"in {kind} alone", frozenset(s for s in acts if s.within == kind))


def add_up(candidate: Candidate, errors: list[Array]) -> list[int]:
    """Which of these errors make up the candidate's, if each is there or not."""
    columns = np.stack(errors, axis=1)
    if not np.isfinite(columns).all():
        return []
    mine = (candidate.values - candidate.truth).flatten()
    shares = np.linalg.lstsq(columns, mine.astype(np.float32), rcond=None)[0]
    return [i for i, share in enumerate(shares) if share > 0.5]
