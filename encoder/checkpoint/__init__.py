"""Reads the encoder's tensors out of a Whisper checkpoint, and writes them as one."""

from .files import CheckpointError
from .loading import load, save_hf
from .names import hf_name, openai_name, shapes

__all__ = ["CheckpointError", "hf_name", "load", "openai_name", "save_hf", "shapes"]
