"""The mistakes that the page can make in front of the reader: entries of parity's catalogue.

Those of the front end are made in the page, by web/melfront.js; those of the encoder are made here,
and the page holds what comes of them.

The one module of the encoder that looks upwards: parity stands on the encoder, and the page shows
both.

    # L blocks  F frames  T positions  S state
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray

from melfront.parity import mistakes
from melfront.parity.mistakes import EncoderMistake
from melfront.parity.mistakes.steps import Steps
from melfront.parity.noise import EPS, LEAST_ULP, least_floor, rms
from melfront.parity.stages import Stage

from ..model import WhisperEncoder
from .measure import Seen

States = dict[str, NDArray[Any]]  # by stage
Entry = dict[str, Any]
NOISE = EPS["float32"] * LEAST_ULP["float32"]  # of a stage's size: the least unit, least_floor
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


def of_front_end() -> list[Entry]:
    """Of each mistake: name, sentence, seen, stage, change."""
    return [
        told(entry) | {"change": dict(entry.change)}
        for entry in mistakes.FRONT_END
        if entry.change and all(is_known(*decision) for decision in entry.change)
    ]


def told(entry: Any) -> Entry:
    """What the catalogue says of an entry."""
    return {
        "name": entry.name,
        "sentence": entry.sentence,
        "seen": entry.seen,
        "stage": str(entry.stage),
    }


def of_encoder(seen: Seen, model: WhisperEncoder) -> Iterator[tuple[Entry, States, States]]:
    """Of each mistake: what `told` says and how far each state is off; the right states; its own.

    Each state is compared after the same features.
    """
    right = states(EncoderMistake("none", Stage("conv1"), "nothing is wrong"), seen, model)
    for name in MADE:
        entry = next(entry for entry in mistakes.ENCODER if entry.name == name)
        wrong = states(entry, seen, model)
        off = [(n, rms(wrong[n] - x) / least_floor(x)) for n, x in right.items()]
        yield told(entry) | {"noise": off}, right, wrong


def states(entry: EncoderMistake, seen: Seen, model: WhisperEncoder) -> States:
    """The stem's stages (S, F or T), and every state (T, S), of a model with a mistake made."""
    mel = torch.from_numpy(seen.front["features"]).to(model.conv1.weight)[None]
    steps = Steps(entry, model, {"features": mel}, n_audio=int(seen.mask.sum() + 1) // 2)
    blocks = [f"block.{i}.mlp_residual" for i in range(model.config.n_audio_layer)]
    names = ["gelu1", "gelu2", "positions", *blocks, "ln_post"]
    return {name: steps[name][0].float().cpu().numpy() for name in names}


def by_stage(entries: list[Entry]) -> dict[str, list[Entry]]:
    """In the order of the stages that they spoil first."""
    stages = sorted({entry["stage"] for entry in entries}, key=lambda name: Stage(name).order)
    return {stage: [e for e in entries if e["stage"] == stage] for stage in stages}


def is_known(name: str, value: Any) -> bool:
    """Whether web/melfront.js can decide so."""
    return name in DECISIONS and (name not in WORDS or value in WORDS[name])
