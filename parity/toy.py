"""The two encoders that are small enough to be committed whole, by their short names."""

from __future__ import annotations

from encoder import WhisperEncoder
from encoder.built_in import PREFIX, QUIET_BITS, TOY, TOYS

__all__ = ["NAMES", "QUIET_BITS", "TOY", "load"]
NAMES = tuple(TOYS)


def load(name: str) -> WhisperEncoder:
    """The toy encoder of this name."""
    return WhisperEncoder.from_pretrained(PREFIX + name)
