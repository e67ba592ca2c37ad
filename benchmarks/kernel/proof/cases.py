"""What the model feeds a slot on speech, captured while it runs on the sample clip.

With trained weights if a model is named, else with formula weights, whose outlier channels and
large biases are like those of trained ones.

    # B batch  M mel bins  F frames  L samples
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

import melfront
from melfront.encoder import SIZES, WhisperEncoder, ops

from ..slots import find
from ..slots.base import Call, Slot
from ..slots.inputs import Case, Dice
from ..slots.shapes import fits
from ..slots.signature import Shapes

DEPTH = 2  # blocks that are run to capture: the first, and one that has another before it
MOST_SIZES = 8  # of one letter that a kernel is tried on
LARGE = 1 << 24  # elements: no batch of two where it would be larger


@lru_cache(maxsize=1)
def clips() -> list[Tensor]:
    """Two clips (L,): the sample, and it again from its middle, a tenth as loud."""
    sample = torch.from_numpy(melfront.load_audio("sample"))
    return [sample, 0.1 * sample.roll(len(sample) // 2)]


@lru_cache(maxsize=2)
def model(size: str, source: str | None, dtype: torch.dtype, depth: int | None) -> WhisperEncoder:
    """Trained weights from `source`, else formula weights of a size, cut to `depth` blocks."""
    if source:
        trained = WhisperEncoder.from_pretrained(source, dtype=dtype)
        trained.blocks = trained.blocks[:depth]
        trained.config = replace(trained.config, n_audio_layer=len(trained.blocks))
        return trained
    config = SIZES[size]
    n_layer = min(depth or config.n_audio_layer, config.n_audio_layer)
    return WhisperEncoder.from_formula(replace(config, n_audio_layer=n_layer), dtype=dtype)


def captured(
    slot: Slot, size: str, source: str | None, dtype: torch.dtype, shapes: Shapes | None = None
) -> list[Case]:
    """A case for each shape that the model calls the slot with, and one of a batch of two.

    Those first that are of the shapes, if there are more than a few.
    """
    if slot.speech:
        sample, other = clips()
        batches = {"speech": sample, "speech, batch of 2": torch.stack([sample, other])}
        n_mels = SIZES[size].n_mels
        return [Case(label, *slot.speech(x, n_mels), seen=True) for label, x in batches.items()]
    latest: dict[str, Call] = {}  # the deepest call of each shape
    for args, kwargs in calls(slot.name, size, source, dtype):
        form = [a.shape for a in args if isinstance(a, Tensor)]
        latest[f"{form} {kwargs}"] = args, kwargs
    pairs = []
    for args, kwargs in latest.values():
        # The first argument has the batch; so have k and v of attention, and no weight does.
        shape = args[0].shape
        one_item = (a[:1] if isinstance(a, Tensor) and a.shape == shape else a for a in args)
        one = Case("speech", tuple(one_item), kwargs, seen=True)
        pairs.append((one, Case("speech, batch of 2", args, kwargs, seen=True)))
    pairs.sort(key=lambda pair: not any(fits(slot, case, shapes or {}) for case in pair))
    cases = [one for one, _ in pairs[:3]]
    two = pairs[0][1]
    return [*cases, two] if two.args[0].numel() <= LARGE else cases


def edges(slot: Slot, dice: Dice) -> Iterator[Case]:
    """Small cases that break kernels, with each of the sizes that the kernel declares."""
    passes = max(map(len, dice.shapes.values()), default=1)
    start = dice.below(passes)
    for i in range(start, start + min(passes, MOST_SIZES)):
        dice.sizes = {letter: sizes[i % len(sizes)] for letter, sizes in dice.shapes.items()}
        yield from slot.edges(dice)


@lru_cache(maxsize=4)
def calls(name: str, size: str, source: str | None, dtype: torch.dtype) -> list[Call]:
    """Every call of an encoder's slot while two clips go through the encoder."""
    slot = find(name)
    encoder = copy.deepcopy(model(size, source, dtype, DEPTH))  # a slot may change it
    mels = [melfront.log_mel(clip, n_mels=encoder.config.n_mels) for clip in clips()]
    features = torch.stack(mels).to(dtype)  # (B, M, F)
    seen: list[Call] = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return slot.ours(*args, **kwargs)

    with torch.no_grad(), ops.using(**slot.installed(encoder, spy)):
        encoder(features)
    return seen
