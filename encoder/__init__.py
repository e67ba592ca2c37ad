"""Whisper's encoder: log-mel features to hidden states.

    model = encoder.WhisperEncoder.from_pretrained("openai/whisper-large-v3")
    out = model(melfront.log_mel(audio))   # out.last_hidden_state (1, 1500, 1280)

`model.py` is the encoder to read and to run, `oracle.py` the same in float64 NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .config import SIZES, EncoderConfig

if TYPE_CHECKING:
    from . import formula, ops, oracle
    from .checkpoint import CheckpointError
    from .cuda_graph import graphed
    from .model import EncoderOutput, WhisperEncoder, trace

__all__ = [
    "SIZES",
    "CheckpointError",
    "EncoderConfig",
    "EncoderOutput",
    "WhisperEncoder",
    "formula",
    "graphed",
    "ops",
    "oracle",
    "trace",
]

MODULES = ("formula", "ops", "oracle")
HOME = {
    "CheckpointError": "checkpoint",
    "EncoderOutput": "model",
    "WhisperEncoder": "model",
    "graphed": "cuda_graph",
    "trace": "model",
}


def __getattr__(name: str) -> Any:
    # Torch takes two seconds to import: only for those who ask for something that is made of it.
    if name in MODULES:
        return import_module(f".{name}", __name__)
    if name in HOME:
        return getattr(import_module(f".{HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
