"""Fixtures for the command `melfront encoder`: a clip, a model and an output folder."""

from pathlib import Path

import pytest

from melfront.encoder import WhisperEncoder, checkpoint
from tests.encoder.cli.commands import write
from tests.encoder.peers import TOY
from tests.signals import sample


@pytest.fixture
def clip(tmp_path) -> Path:
    """A fifth of a second of speech: one window of the toy."""
    return write(tmp_path / "clip.wav", sample()[50_000:53_251])


@pytest.fixture
def toy(tmp_path) -> Path:
    """A folder with the toy's weights in Hugging Face's layout."""
    checkpoint.save_hf(tmp_path / "toy", TOY, WhisperEncoder.from_formula(TOY).state_dict())
    return tmp_path / "toy"


@pytest.fixture
def out(tmp_path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder
