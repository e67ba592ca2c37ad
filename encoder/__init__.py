"""Whisper's encoder: log-mel features to hidden states.

    model = encoder.WhisperEncoder.from_pretrained("openai/whisper-large-v3")
    out = model(melfront.log_mel(audio))   # out.last_hidden_state (1, 1500, 1280)

`model.py` is the encoder to read and to run, `oracle.py` the same in float64 NumPy.
"""

from __future__ import annotations

from . import formula, ops, oracle
from .checkpoint import CheckpointError
from .config import SIZES, EncoderConfig
from .model import EncoderOutput, WhisperEncoder, trace

__all__ = [
    "SIZES",
    "CheckpointError",
    "EncoderConfig",
    "EncoderOutput",
    "WhisperEncoder",
    "formula",
    "ops",
    "oracle",
    "trace",
]
