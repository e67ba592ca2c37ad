"""A mistake made in some places only is named with the place."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import melfront
from melfront import parity
from melfront.encoder import WhisperEncoder
from melfront.encoder.built_in import TOY
from melfront.parity import mistakes
from melfront.parity.diagnosis import diagnose
from melfront.parity.diagnosis.places import parts_of, some
from melfront.parity.mistakes.steps import Steps
from melfront.parity.pipeline import load_model
from melfront.parity.signals import SIGNALS
from melfront.parity.stages import of_encoder

AUDIO = SIGNALS["toy"].make()
MEL = torch.from_numpy(melfront.log_mel(AUDIO, n_mels=7, pad_to=0.22))[None]
MODEL = load_model("formula:toy")


def made(name, pattern, given):
    """These stages with a mistake made at the stages that match the pattern."""
    where = frozenset(stage for stage in of_encoder(2) if re.match(pattern, stage))
    steps = Steps(replace(mistakes.find(name), where=where), MODEL, {"features": MEL}, 10)
    return {stage: steps[stage][0].numpy() for stage in given}


SOON = [
    ("tanh GELU", r"gelu", "in the stem alone"),
    ("ReLU", r"(?!block\.1)", "in the stem and block 0 and not in block 1"),
    ("weights in int8", r".*fc2", "in mlp.fc2 alone"),
]
LATER = [
    pytest.param(*case, marks=pytest.mark.slow)
    for case in (
        ("tanh GELU", r"block", "in the blocks and not in the stem"),
        ("tanh GELU", r"block\.0", "in block 0 alone"),
        ("RMS norm", r"block", "in the blocks and not in ln_post"),
        ("unbiased variance", r"ln_post", "in ln_post alone"),
        ("fc1 bias missing", r"block\.1", "in block 1 and not in block 0"),
        ("causal mask", r"block\.0", "in block 0 and not in block 1"),
        ("weights in float16", r"block\.\d\.attn", "in the attention's half of a block alone"),
        ("tanh GELU", r"gelu1", "in gelu1 alone"),
        ("blocks left out", r"block\.1", "in block 1 and not in block 0"),
    )
]


@pytest.mark.parametrize(("name", "pattern", "place"), [*SOON, *LATER])
def test_place_is_named_from_the_last_hidden_state(name, pattern, place):
    report = parity.compare(made(name, pattern, ["ln_post"]), audio=AUDIO, model=MODEL)
    same = {"blocks left out": "last block left out"}  # another entry's name for it
    expected = same.get(name, f"{name}, {place}")
    assert [named.name for named in report.diagnosis.named] == [expected], report
    assert expected in report.headline()
    assert mistakes.find(expected.split(",")[0]).sentence in report.headline()


@pytest.mark.parametrize(
    ("name", "pattern", "place"),
    [
        ("RMS norm", r"block\.1\.attn_ln", "in attn_ln alone"),
        ("weights in int8", r"block\.1\.attn\.q", "in attn.q alone"),
        ("weights in bfloat16", r"block\.1\.mlp\.fc1", "in mlp.fc1 alone"),
    ],
)
def test_half_of_one_block_is_named(name, pattern, place):
    given = ["positions", "block.0.mlp_residual", "block.1.mlp_residual", "ln_post"]
    report = parity.compare(made(name, pattern, given), audio=AUDIO, model=MODEL)
    assert report.first_wrong.name == "block.1.mlp_residual"
    assert [named.name for named in report.diagnosis.named] == [f"{name}, {place}"], report


def test_places_in_words():
    parts = parts_of(frozenset(s for s in of_encoder(6) if "gelu" in s))

    def words(*numbers, stem=False):
        return some(parts, ["the stem"] * stem + [f"block {i}" for i in numbers]).words

    assert words(*range(6)) == "in the blocks and not in the stem"
    assert words(3) == "in block 3 alone"
    assert words(0, 1, 2) == "in blocks 0 to 2 and not in the stem and blocks 3 to 5"
    assert (
        words(1, 4, stem=True) == "in the stem and blocks 1 and 4 and not in blocks 0, 2, 3 and 5"
    )


@pytest.mark.parametrize(("layers", "said"), [(2, False), (7, True)])
def test_what_was_not_tried_is_said(monkeypatch, layers, said):
    monkeypatch.setattr(diagnose, "of_the_encoder", lambda _: iter([[]]))  # nothing fits
    model = WhisperEncoder.from_formula(replace(TOY, n_audio_layer=layers))
    with torch.no_grad():
        right = model(MEL).last_hidden_state[0].numpy()
    mine = right * (1 + np.random.default_rng(5).normal(0, 1e-2, right.shape)).astype("f4")
    report = parity.compare({"ln_post": mine}, audio=AUDIO, model=model)
    assert not report.diagnosis.named
    assert ("single blocks were not tried" in report.headline()) == said
