"""The mistakes that the report of a clip can show: entries of the catalogue.

Those of the front end are made in the page, by web/melfront.js. Those of the encoder are made here,
and the page holds what comes of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from melfront.encoder import WhisperEncoder, ops
from melfront.encoder.report.measure import COARSE_PIXELS, Heads, Reached, Seen, positions_of
from melfront.encoder.report.mistakes import Entry, Mistakes

from .. import mistakes
from ..mistakes import EncoderMistake
from ..mistakes.steps import Steps
from ..noise import EPS, LEAST_ULP, least_floor, rms
from ..stages import Stage

# Of the encoder: one for each of its decisions.
MADE = (
    "flipped kernel",
    "tanh GELU",
    "no positions",
    "interleaved positions",
    "scores not scaled",
    "causal mask",
    "heads interleaved",
    "RMS norm",
    "no final norm",
)

# The decisions that web/melfront.js knows, by their names in `melfront.Convention`.
DECISIONS = {
    *("gain", "preemphasis", "frame_start", "pad_mode", "drop", "window", "periodic"),
    *("spectrum_scale", "folded", "power", "f_min", "f_max", "mel_scale", "mel_norm", "flip_mels"),
    *("log_base", "log_factor", "log_floor", "max_scope", "dynamic_range"),
    *("offset", "divisor", "fill"),
}
WORDS: dict[str, tuple[Any, ...]] = {
    "pad_mode": ("constant", "edge"),
    "drop": ("first",),
    "window": ("hamming", "blackman", None),
    "max_scope": ("frame", None),
    "mel_norm": (None,),
}


def of_clip(seen: Seen, model: WhisperEncoder) -> Mistakes:
    """All of them, of a clip in a model."""
    return Mistakes(of_front_end(), of_encoder(seen, model), EPS["float32"] * LEAST_ULP["float32"])


def of_front_end() -> list[Entry]:
    """Of each mistake: name, sentence, seen, stage, change."""
    known = [
        entry
        for entry in mistakes.FRONT_END
        if entry.change and all(is_known(*decision) for decision in entry.change)
    ]
    known.sort(key=lambda entry: entry.stage.order)
    return [told(entry) | {"change": dict(entry.change)} for entry in known]


def told(entry: Any) -> Entry:
    """What the catalogue says of an entry."""
    return {
        "name": entry.name,
        "sentence": entry.sentence,
        "seen": entry.seen,
        "stage": str(entry.stage),
    }


def of_encoder(seen: Seen, model: WhisperEncoder) -> Iterator[tuple[Entry, Reached, Reached]]:
    """Of each mistake: what `told` says and how far each state is off; what is right; what it does.

    Each state is compared after the same features.
    """
    right = reached(EncoderMistake("none", Stage("conv1"), "nothing is wrong"), seen, model)
    for name in MADE:
        entry = next(entry for entry in mistakes.ENCODER if entry.name == name)
        wrong = reached(entry, seen, model)
        off = [(n, rms(wrong.states[n] - x) / least_floor(x)) for n, x in right.states.items()]
        yield told(entry) | {"noise": off}, right, wrong


def reached(entry: EncoderMistake, seen: Seen, model: WhisperEncoder) -> Reached:
    """What there is in a model with a mistake made."""
    mel = torch.from_numpy(seen.front["features"]).to(model.conv1.weight)[None]
    steps = Steps(entry, model, {"features": mel}, n_audio=int(seen.mask.sum() + 1) // 2)
    heads = Heads(model.config, positions_of(len(seen.audio)), seen.in_view, COARSE_PIXELS)
    names = ["conv1", "gelu1", "conv2", "gelu2", "positions"]
    for i in range(model.config.n_audio_layer):
        heads.see(shares(steps, i, seen.in_view))
        names.append(f"block.{i}.mlp_residual")
        steps[names[-1]]  # what is inside the block is forgotten
    states = {name: steps[name][0].float().cpu().numpy() for name in [*names, "ln_post"]}
    return Reached(states, heads.seen())


def shares(steps: Steps, i: int, in_view: int) -> Tensor:
    """The attention of a block (B, H, P, T), of the queries in view: all of them take long."""
    block: Any = steps.model.blocks[i]
    q, k = (block.attn.split(steps[f"block.{i}.attn.{name}"]) for name in "qk")  # (B, H, T, D)
    with torch.no_grad(), ops.using(**steps.ops):
        op = ops.current()
        weights: Tensor = op.softmax(op.scores(q[:, :, :in_view], k))
    return weights


def is_known(name: str, value: Any) -> bool:
    """Whether web/melfront.js can decide so."""
    return name in DECISIONS and (name not in WORDS or value in WORDS[name])
