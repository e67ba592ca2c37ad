"""Which mistakes fewer bits hide: what they change passes for the noise of the products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from melfront.encoder import ops

from ..mistakes import EncoderMistake, find, run
from ..noise import Array, rms
from ..pipeline import Pipeline, Seen
from ..stages import Stage
from .kinds import EXACT
from .products import products

# The smallest. Each is one run of the model: no more than these, and of small models alone.
SMALL = (
    "tanh GELU",
    "eps of 1e-6",
    "eps outside the root",
    "positions recomputed",
)
LARGEST = 512  # n_audio_state, whisper-base's
HIDDEN = 2.0  # units of noise: with the noise itself, still a PASS of three


def hidden(pipeline: Pipeline, units: Mapping[Stage, float]) -> list[str]:
    """The names of mistakes that none of these stages can show; units: of noise, by stage.

    Empty where no product has fewer bits, and for large models.
    """
    model, units = pipeline.model, {s: u for s, u in units.items() if not s.of_front_end}
    few = pipeline.computed_in not in (None, EXACT)
    if not few or model is None or not units or model.config.n_audio_state > LARGEST:
        return []
    mel = torch.from_numpy(pipeline.heard(pipeline.front_end_truth["features"])).float()
    mel = mel if pipeline.clips.batched else mel[None]  # (B, M, F)

    rounding = dict(products(pipeline.computed_in or EXACT))
    if not any(stage.within in ("attn.scores", "attn.weights") for stage in units):
        # Given a tap, the model computes these apart from `attention`, for the tap alone.
        rounding |= {"scores": lambda q, _: q, "softmax": lambda x: x}

    def stages(entry: EncoderMistake | None) -> dict[str, Array]:
        seen: Any = Seen(set(units))
        with torch.no_grad(), ops.using(**rounding):
            if entry is None:
                model(mel, tap=seen)
            else:
                run(entry, model, mel, seen, pipeline.n_audio)
        return {stage: tensor.double().numpy() for stage, tensor in seen.items()}

    right, names = stages(None), []
    for name in SMALL:
        entry = find(name)
        assert isinstance(entry, EncoderMistake)
        wrong = stages(entry)
        if all(rms(wrong[stage] - right[stage]) <= HIDDEN * unit for stage, unit in units.items()):
            names.append(name)
    return names
