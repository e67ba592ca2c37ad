"""Causes that a wrong tensor itself proves: `diagnosis.symptoms` looks for them at every stage."""

from __future__ import annotations

from .entry import EncoderMistake, FrontEndMistake, catalogue, encoder_mistake, mistake

ROWS_SWAPPED = mistake(
    "clips of the batch swapped: each clip's numbers are right, and stand where another clip's "
    "should"
)
OVERFLOW, OTHER_WEIGHTS = catalogue(
    "block.0.attn_ln",
    encoder_mistake(
        "layer norm overflows: the bad positions are the norm's bias and nothing else: their "
        "variance is infinite, because the square of an outlier overflows in float16; compute the "
        "norm in float32",
        seen="onnxruntime and TensorRT, where layer norm is decomposed in float16",
    ),
    "conv1",
    encoder_mistake(
        "other or random weights: the values have nothing in common with the truth: these are not "
        "the weights of this model; from a whole Whisper checkpoint transformers' "
        "`WhisperEncoder.from_pretrained` loads nothing and leaves random ones",
    ),
)
PROVEN: list[FrontEndMistake | EncoderMistake] = [ROWS_SWAPPED, OVERFLOW, OTHER_WEIGHTS]
