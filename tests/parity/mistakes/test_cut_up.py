"""Sequences computed in pieces, and tiles left out, are named with their length."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import melfront
from melfront import parity
from melfront.encoder import WhisperEncoder
from melfront.parity.diagnosis.lengths import period
from melfront.parity.diagnosis.match import Candidate
from melfront.parity.mistakes import OVERFLOW
from melfront.parity.mistakes.pieces import cut_up, in_chunks, in_tiles
from melfront.parity.mistakes.steps import Steps
from melfront.parity.pipeline import Pipeline, load_model
from melfront.parity.signals import SIGNALS
from melfront.parity.stages import Stage, of_encoder
from tests.parity.commands import soon

AUDIO = SIGNALS["toy"].make()
MEL = torch.from_numpy(melfront.log_mel(AUDIO, n_mels=7, pad_to=0.22))[None]
MODEL = load_model("formula:toy")
OF_THE_TOY = [*cut_up(11, 26, 2), in_chunks(6), in_tiles(4)]


@pytest.mark.parametrize("entry", soon(OF_THE_TOY, *OF_THE_TOY[::2]), ids=lambda entry: entry.name)
@pytest.mark.parametrize(
    "given", ["hidden states", pytest.param("ln_post", marks=pytest.mark.slow)]
)
def test_length_is_named(entry, given):
    stages = ["positions", "block.0.mlp_residual"] if given == "hidden states" else []
    steps = Steps(entry, MODEL, {"features": MEL})
    mine = {stage: steps[stage][0].numpy() for stage in (*stages, "ln_post")}
    report = parity.compare(mine, audio=AUDIO, model=MODEL)
    assert [named.name for named in report.diagnosis.named] == [entry.name], report


def test_entries_of_a_published_size():
    names = [entry.name for entry in cut_up(1500, 384, 6)]
    for length in (50, 64, 100, 128, 250, 500, 512, 750):
        assert f"attention in windows of {length}" in names
    for rest in (28, 92):  # of tiles of 64 and 128
        assert f"last {rest} keys dropped" in names
        assert f"last {rest} positions of attention unwritten" in names
    assert "heads counted as 8" in names
    assert "heads counted as 6" not in names


@pytest.mark.parametrize(
    ("stage", "bad", "expected"),
    [
        ("positions", [50, 49, 100, 99, 150, 149, 200, 199], 50),
        ("conv1", [7, 14, 21, 28, 35, 42, 49, 56, 63, 70], 7),
        ("positions", [50, 60, 131], None),
        ("positions", [], None),
    ],
)
def test_period(stage, bad, expected):
    rng = np.random.default_rng(3)
    shape = (250, 5) if stage == "positions" else (5, 75)
    truth = rng.normal(size=shape)
    values = truth + rng.normal(0, 1e-7, shape)
    if stage == "positions":
        values[bad] += 0.1
    else:
        values[:, bad] += 0.1
    about = (values, truth, 1e-7, "float32", 1e5, None)
    assert period(Candidate(Pipeline(None), Stage(stage), *about)) == expected


def test_chunks_at_the_first_convolution():
    """There a tile of the one convolution and a chunk of both are the same."""
    steps = Steps(in_chunks(6), MODEL, {"features": MEL})
    mine = {stage: steps[stage][0].numpy() for stage in of_encoder(2)}
    report = parity.compare(mine, audio=AUDIO, model=MODEL)
    assert report.first_wrong.name == "conv1"
    assert {named.name for named in report.diagnosis.named} == {
        "convolutions in chunks of 6 frames",
        "convolution tiles of 6 without their neighbours",
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_layer_norm_that_overflows(dtype):
    """At the positions with a value far from the mean, nothing but the bias is left."""
    weights = {name: w.clone() for name, w in MODEL.state_dict().items()}
    weights["positions"][[2, 7], 3] = 300
    model = WhisperEncoder.from_weights(MODEL.config, weights)
    steps = Steps(OVERFLOW, model, {"features": MEL})
    stages = ["positions", "block.0.attn_ln", "ln_post"]
    mine = {stage: steps[stage][0].numpy().astype(dtype) for stage in stages}
    bias = weights["blocks.0.attn_ln.bias"].numpy().astype(dtype)
    assert (mine["block.0.attn_ln"][[2, 7]] == bias).all()
    report = parity.compare(mine, audio=AUDIO, model=model)
    assert report.first_wrong.name == "block.0.attn_ln", report
    assert [named.name for named in report.diagnosis.named] == [OVERFLOW.name], report
