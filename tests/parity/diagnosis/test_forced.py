"""Of several wrong stages, each with the port's own inputs, each is named for itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import melfront
from melfront.conventions import TRANSFORMERS
from melfront.parity import mistakes
from melfront.parity.comparison.expected import forced_truth
from melfront.parity.diagnosis.diagnose import diagnose
from melfront.parity.diagnosis.front_end import both
from melfront.parity.diagnosis.match import Candidate
from melfront.parity.files.tensors import Tensor
from melfront.parity.mistakes.steps import Steps
from melfront.parity.noise import NOISY_LIMIT, least_floor, rms
from melfront.parity.pages.mistakes_page import pipeline_of
from melfront.parity.pipeline import load_model
from melfront.parity.signals import SIGNALS
from melfront.parity.stages import Stage, of_encoder
from tests.parity.ports import front_end_dump


def named_of_each(pipeline, dump):
    """The names of the mistakes of every wrong stage, by stage."""
    tensors = {Stage(name): Tensor(x, "float32") for name, x in dump.items()}
    truth = forced_truth(pipeline, tensors)
    given, found, passed = {}, {}, None
    for stage, tensor in tensors.items():
        floor = least_floor(truth[stage])
        error = rms(tensor.values - truth[stage]) / floor
        about = (tensor.values, truth[stage], floor, "float32", error, passed, dict(given))
        if not error <= NOISY_LIMIT:
            found[stage] = [n.name for n in diagnose(Candidate(pipeline, stage, *about)).named]
        passed, given[stage] = stage, tensor.values
    return found


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("tanh GELU", "scores not scaled"),
        pytest.param("unbiased variance", "out bias missing", marks=pytest.mark.slow),
    ],
)
def test_encoder(first, second):
    model = load_model("formula:toy")
    pipeline = replace(pipeline_of("toy", 7), model=model)
    one, other = mistakes.find(first), mistakes.find(second)
    two = replace(one, ops={**one.ops, **other.ops}, weights=other.weights)
    mel = torch.from_numpy(melfront.log_mel(SIGNALS["toy"].make(), n_mels=7, pad_to=0.22))[None]
    steps = Steps(two, model, {"features": mel})
    found = named_of_each(pipeline, {s: steps[s][0].numpy() for s in of_encoder(2)})
    assert [first] in found.values()
    assert [second] in found.values()
    for stage, named in found.items():
        assert named == [second if second.split()[0] in stage else first], stage


def test_front_end():
    pair = (mistakes.find("symmetric window"), mistakes.find("natural logarithm"))
    dump = front_end_dump(SIGNALS["speech"].make(), both(TRANSFORMERS, pair))
    found = named_of_each(pipeline_of("speech", 80), dump)
    assert found == {"windowed": ["symmetric window"], "log": ["natural logarithm"]}
    assert all(np.isfinite(x).all() for x in dump.values())
