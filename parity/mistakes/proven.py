"""Causes that a wrong tensor itself proves: `diagnosis.symptoms` looks for them at every stage."""

from __future__ import annotations

from .entry import EncoderMistake, FrontEndMistake, catalogue, encoder_mistake, mistake

ROWS_SWAPPED = mistake(
    "clips of the batch swapped: each clip's numbers are right, and stand where another clip's "
    "should"
)
(OTHER_WEIGHTS,) = catalogue(
    "conv1",
    encoder_mistake(
        "other or random weights: the values have nothing in common with the truth: these are not "
        "the weights of this model; from a whole Whisper checkpoint transformers' "
        "`WhisperEncoder.from_pretrained` loads nothing and leaves random ones",
    ),
)
PROVEN: list[FrontEndMistake | EncoderMistake] = [ROWS_SWAPPED, OTHER_WEIGHTS]
