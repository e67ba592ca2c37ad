"""What the model feeds a slot on speech, captured while it runs on the sample clip.

With trained weights if a model is named, else with formula weights, whose outlier channels and
large biases are like those of trained ones.

    # B batch  M mel bins  F frames  L samples
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

import melfront
from melfront.encoder import SIZES, EncoderConfig, WhisperEncoder, ops

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
        whole = WhisperEncoder.from_pretrained(source, dtype=dtype)
        if depth is None or depth >= whole.config.n_audio_layer:
            return whole
        config = replace(whole.config, n_audio_layer=depth)
        kept = {
            n: w
            for n, w in whole.state_dict().items()
            if not n.startswith("blocks.") or int(n.split(".")[1]) < depth
        }
        return WhisperEncoder.from_weights(config, kept)
    return WhisperEncoder.from_formula(config_of(size, depth), dtype=dtype)


def config_of(size: str, depth: int | None) -> EncoderConfig:
    config = SIZES[size]
    return replace(config, n_audio_layer=min(depth or config.n_audio_layer, config.n_audio_layer))


def captured(slot: Slot, size: str, source: str | None, dtype: torch.dtype) -> list[Case]:
    """A case for each shape that the model calls the slot with, and one of a batch of two."""
    if slot.speech:
        sample, other = clips()
        n_mels = config_of(size, None).n_mels
        one, two = (slot.speech(x, n_mels) for x in (sample, torch.stack([sample, other])))
        return [
            Case("speech", *one, seen=True, timed=True),
            Case("speech, batch of 2", *two, seen=True, timed=True),
        ]
    latest: dict[Any, Call] = {}  # the deepest call of each shape
    for args, kwargs in calls(slot.name, size, source, dtype):
        tensors = [a for a in args if isinstance(a, Tensor)]
        latest[*(tuple(t.shape) for t in tensors), str(kwargs)] = (args, kwargs)
    cases = []
    for args, kwargs in list(latest.values())[:3]:
        x = args[0]
        # The first argument has the batch; so have k and v of attention, and no weight does.
        batched = [isinstance(a, Tensor) and a.shape == x.shape for a in args]
        one_item = tuple(a[:1] if b else a for a, b in zip(args, batched, strict=True))
        cases.append(Case("speech", one_item, kwargs, seen=True, timed=True))
    args, kwargs = next(iter(latest.values()))
    if args[0].numel() <= LARGE:
        cases.append(Case("speech, batch of 2", args, kwargs, seen=True, timed=True))
    return cases


@lru_cache(maxsize=4)
def calls(name: str, size: str, source: str | None, dtype: torch.dtype) -> list[Call]:
    """Every call of an encoder's slot while two clips go through the encoder."""
    slot = find(name)
    encoder = model(size, source, dtype, DEPTH)
    features = torch.stack([melfront.log_mel(c, n_mels=encoder.config.n_mels) for c in clips()])
    features = features.to(dtype)  # (B, M, F)
    if slot.calls:
        return slot.calls(encoder, features)
    seen: list[Call] = []
    op = slot.op or name
    original = getattr(ops.Ops(), op)

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return original(*args, **kwargs)

    with torch.no_grad(), ops.using(**{op: spy, **slot.around}):
        encoder(features)
    return seen
