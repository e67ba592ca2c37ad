"""What the model feeds a slot on speech, captured while it runs on the sample clip.

With trained weights if a model is named, else with formula weights, whose outlier channels and
large biases are like those of trained ones.

    # B batch  M mel bins  F frames  L samples
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

import melfront
from melfront.encoder import SIZES, WhisperEncoder, ops

from ..slots import find
from ..slots.base import Call, Slot
from ..slots.inputs import Case

DEPTH = 2  # blocks that are run to capture: the first, and one that has another before it
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


def captured(slot: Slot, size: str, source: str | None, dtype: torch.dtype) -> list[Case]:
    """A case for each shape that the model calls the slot with, and one of a batch of two."""
    if slot.speech:
        sample, other = clips()
        batches = {"speech": sample, "speech, batch of 2": torch.stack([sample, other])}
        n_mels = SIZES[size].n_mels
        return [Case(label, *slot.speech(x, n_mels), seen=True) for label, x in batches.items()]
    latest: dict[str, Call] = {}  # the deepest call of each shape
    for args, kwargs in calls(slot.name, size, source, dtype):
        shapes = [a.shape for a in args if isinstance(a, Tensor)]
        latest[f"{shapes} {kwargs}"] = args, kwargs
    cases = []
    for args, kwargs in list(latest.values())[:3]:
        # The first argument has the batch; so have k and v of attention, and no weight does.
        shape = args[0].shape
        one_item = (a[:1] if isinstance(a, Tensor) and a.shape == shape else a for a in args)
        cases.append(Case("speech", tuple(one_item), kwargs, seen=True))
    args, kwargs = next(iter(latest.values()))
    if args[0].numel() <= LARGE:
        cases.append(Case("speech, batch of 2", args, kwargs, seen=True))
    return cases


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
