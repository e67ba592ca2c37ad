"""An encoder computed step by step is the encoder, from whatever stages are given."""

from __future__ import annotations

import pytest
import torch

import melfront
from melfront import encoder
from melfront.parity import mistakes
from melfront.parity.mistakes.steps import Steps
from melfront.parity.pipeline import load_model
from melfront.parity.signals import SIGNALS
from melfront.parity.stages import Stage, of_encoder

AUDIO = SIGNALS["toy"].make()
MEL = torch.from_numpy(melfront.log_mel([AUDIO, AUDIO[:2000]], n_mels=7, pad_to=0.22))
MODEL = load_model("formula:toy")
RIGHT = encoder.trace(MODEL, MEL)
NONE = mistakes.EncoderMistake("none", Stage("positions"), "")


def test_steps_are_the_models():
    steps = Steps(NONE, MODEL, {"features": MEL})
    assert list(RIGHT) == of_encoder(2)
    for stage, tensor in RIGHT.items():
        assert torch.equal(steps[stage], tensor), stage


@pytest.mark.parametrize(
    ("stage", "given"),
    [
        ("gelu2", ["conv2"]),
        ("block.1.attn_ln", ["block.0.mlp_residual"]),
        ("block.1.attn.k", ["block.1.attn_ln"]),
        ("block.1.attn.weights", ["block.1.attn.q", "block.1.attn.k"]),
        ("block.1.mlp.fc2", ["block.1.mlp.gelu"]),
        ("block.1.mlp_residual", ["block.1.attn_residual", "block.1.mlp.fc2"]),
        ("ln_post", ["block.1.mlp_residual"]),
    ],
)
def test_a_step_needs_nothing_but_its_inputs(stage, given):
    steps = Steps(NONE, MODEL, {name: RIGHT[name] for name in given})
    assert torch.equal(steps[stage], RIGHT[stage])


def test_context_of_given_weights():
    """They are used as they are, not computed again from q and k."""
    v, weights = RIGHT["block.0.attn.v"], RIGHT["block.0.attn.weights"].flip(-1)
    given = {"block.0.attn.v": v, "block.0.attn.weights": weights}
    heads = v.unflatten(2, (2, -1)).transpose(1, 2)
    expected = (weights @ heads).transpose(1, 2).flatten(2)
    assert torch.equal(Steps(NONE, MODEL, given)["block.0.attn.context"], expected)


def test_a_deep_encoder_does_not_exhaust_the_stack():
    config = encoder.EncoderConfig(3, 2, 4, 1, 300, 5)
    model = encoder.WhisperEncoder.from_formula(config)
    mel = torch.zeros(1, 3, 4)
    with torch.no_grad():
        expected = model(mel).last_hidden_state
    steps = Steps(NONE, model, {"features": mel})
    torch.testing.assert_close(steps["ln_post"], expected)
    kept = [stage for stage in steps.done if stage.startswith("block.7.")]
    assert kept == ["block.7.mlp_residual"]
