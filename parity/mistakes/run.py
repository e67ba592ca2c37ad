"""Run the model with a mistake of the catalogue made."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from melfront.encoder import WhisperEncoder, ops
from melfront.encoder.model import no_tap

from ..stages import Stage
from .entry import At, EncoderMistake

Tap = Callable[[str, Tensor], Tensor]


def run(
    mistake: EncoderMistake, model: WhisperEncoder, mel: Tensor, tap: Tap = no_tap, n_audio: int = 0
) -> Tensor:
    """The model's last hidden state (B, T, S) with the mistake made; `tap` sees every stage.

    n_audio: how many positions hold audio, for the mistakes that treat the others differently.
    """
    if mistake.weights:
        changed = mistake.weights(dict(model.state_dict()))
        model = WhisperEncoder.from_weights(model.config, changed)
    replaced = dict(mistake.ops)
    if mistake.needs_clip:
        replaced = {slot: function(n_audio) for slot, function in replaced.items()}
    if mistake.rewrite:
        tap = rewriting(mistake, At(model, {}), tap)
    with ops.using(**replaced), torch.no_grad():
        return model(mel, tap=tap).last_hidden_state


def rewriting(mistake: EncoderMistake, at: At, tap: Tap) -> Tap:
    """A tap that rewrites the mistake's stages before it hands them on."""

    def hook(name: str, tensor: Tensor) -> Tensor:
        stage = Stage(name)
        at.block = stage.block
        rewrite = mistake.rewrite.get(stage.within)
        if rewrite:
            tensor = rewrite(at, tensor)
        tensor = tap(name, tensor)
        if "H" not in stage.axes:  # scores and weights are large, and no rewrite asks for them
            at.seen[name] = tensor
        return tensor

    return hook
