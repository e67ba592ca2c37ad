"""Whisper's encoder: log-mel features to hidden states.

    model = encoder.WhisperEncoder.from_pretrained("openai/whisper-large-v3")
    out = model(melfront.log_mel(audio))   # out.last_hidden_state (1, 1500, 1280)

WhisperEncoder      the model, a torch module; EncoderOutput is what it returns
for_transformers    a Whisper model of transformers with our encoder inside
for_openai          the same for a model of openai-whisper
graphed             the model as a CUDA graph
trace               every stage of a forward pass, by name
EncoderConfig       the dimensions of an encoder; SIZES has those of every published one
CheckpointError     why a checkpoint cannot be loaded
ops                 the operations, and `ops.using`, which replaces them
oracle              the encoder in float64 NumPy: read this first
formula             weights from a formula, for an encoder without a download
ray                 a class for Ray Data, to encode clips on several machines
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import melfront  # noqa: F401  # first: in a checkout it makes this `melfront.encoder`

from .config import SIZES, EncoderConfig

if TYPE_CHECKING:
    from . import formula, ops, oracle, ray
    from .checkpoint import CheckpointError
    from .cuda_graph import graphed
    from .libraries.hugging_face import for_transformers
    from .libraries.openai import for_openai
    from .model import EncoderOutput, WhisperEncoder, trace

__all__ = [
    "SIZES",
    "CheckpointError",
    "EncoderConfig",
    "EncoderOutput",
    "WhisperEncoder",
    "for_openai",
    "for_transformers",
    "formula",
    "graphed",
    "ops",
    "oracle",
    "ray",
    "trace",
]

HOME = {
    "CheckpointError": "checkpoint",
    "EncoderOutput": "model",
    "WhisperEncoder": "model",
    "for_openai": "libraries.openai",
    "for_transformers": "libraries.hugging_face",
    "graphed": "cuda_graph",
    "trace": "model",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    # Importing torch takes two seconds, so it waits until a name that needs it is used.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{HOME.get(name, name)}", __name__)
    return getattr(module, name) if name in HOME else module
