"""The fast way through the encoder gives what the clear one gives, and steps aside when it must."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import encoder
from encoder import WhisperEncoder, fast, ops, oracle
from encoder.config import SIZES
from tests.encoder.peers import features

# Prime head_dim, more positions than one portion of the MLP has rows.
CONFIG = replace(SIZES["tiny"], n_mels=7, n_audio_ctx=607, n_audio_state=38, n_audio_head=2)
CONFIG = replace(CONFIG, n_audio_mlp=211, n_audio_layer=3)


@pytest.fixture
def model():
    return WhisperEncoder.from_formula(CONFIG)


@pytest.fixture
def mel():
    return torch.from_numpy(features(CONFIG, batch=3))


@pytest.fixture
def calls(monkeypatch):
    """One entry for each time that the fast way was taken."""
    made, forward = [], fast.forward
    monkeypatch.setattr(fast, "forward", lambda *a, **kw: made.append(1) or forward(*a, **kw))
    return made


def clear(model, mel, **options):
    """The model's own steps: with a kernel of somebody else's in a slot they are taken."""
    with torch.no_grad(), ops.using(gelu=lambda x: ops.gelu(x)):
        return model(mel, **options)


def rms(x) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def test_as_near_to_the_truth_as_the_clear_way(model, mel, calls):
    """The sums are the same ones, in another order at most: the errors differ by chance alone.

    Below 4 ulp of the tensor's scale one rounding more or less decides, and so the CPU's kernels.
    """
    with torch.inference_mode():
        ours = model(mel, output_hidden_states=True).hidden_states
    assert calls
    theirs = clear(model, mel, output_hidden_states=True).hidden_states
    assert len(calls) == 1
    weights = {name: x.double().numpy() for name, x in model.state_dict().items()}
    inputs = ["positions", "block.0.mlp_residual", "block.1.mlp_residual", "ln_post"]
    for i, clip in enumerate(mel):
        truth = oracle.trace(clip.double().numpy(), weights, CONFIG)
        for stage, a, b in zip(inputs, ours, theirs, strict=True):
            a, b = a[i].numpy() - truth[stage], b[i].numpy() - truth[stage]
            least = 4 * np.finfo(np.float32).eps * rms(truth[stage])
            assert rms(a) <= 1.05 * max(rms(b), least), stage


def test_a_batch_is_its_clips_one_by_one_to_the_bit(model, mel):
    with torch.no_grad():
        batch = model(mel).last_hidden_state
        for clip, expected in zip(mel, batch, strict=True):
            assert model(clip).last_hidden_state[0].equal(expected)


def test_what_is_returned_is_the_callers_own(model, mel):
    with torch.no_grad():
        first = model(mel, output_hidden_states=True).hidden_states
        kept = [state.clone() for state in first]
        other = model(mel.flip(0), output_hidden_states=True).hidden_states
        for state in other:
            state.zero_()
        again = model(mel, output_hidden_states=True).hidden_states
    for a, b, c in zip(first, kept, again, strict=True):
        assert a.equal(b)
        assert c.equal(b)
    assert len({state.data_ptr() for state in first}) == len(first)


def test_features_and_weights_are_left_alone(model, mel):
    before = [mel.clone(), *(p.clone() for p in model.parameters())]
    with torch.no_grad():
        model(mel)
    for a, b in zip(before, [mel, *model.parameters()], strict=True):
        assert a.equal(b)


@pytest.mark.parametrize("n_frames", [1, 2, 3, 998, 1214])
def test_shorter_clips(model, mel, n_frames):
    with torch.no_grad():
        ours = model(mel[..., :n_frames], strict_length=False).last_hidden_state
    theirs = clear(model, mel[..., :n_frames], strict_length=False).last_hidden_state
    assert ours.shape == theirs.shape
    assert rms((ours - theirs).numpy()) <= 2e-6 * rms(theirs.numpy())  # both err by some 5e-7


def test_whoever_would_notice_gets_the_clear_way(model, mel, calls):
    hooks = [
        model.blocks[1].register_forward_hook(lambda *_: None),
        model.blocks[2].attn.q.register_forward_pre_hook(lambda *_: None),
        torch.nn.modules.module.register_module_forward_hook(lambda *_: None),
    ]
    with torch.no_grad():
        for hook in hooks:
            model(mel)
            hook.remove()
            hooks = hooks[1:]
        model(mel, tap=lambda _stage, x: x)
        with ops.using(layer_norm=lambda *a: ops.layer_norm(*a)):
            model(mel)
        with torch.autocast("cpu"):
            model(mel)
        model.double()(mel.double())
        model.bfloat16()(mel.bfloat16())
    model.float()(mel)  # with gradients
    encoder.trace(model, mel)
    assert not calls
    with torch.no_grad():
        model(mel)
    assert len(calls) == 1


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # the checks of the shape are kept
def test_an_export_gets_the_clear_way(model, mel, calls):
    """A trace of the fast one would hold for one number of clips."""
    model.requires_grad_(False)
    with torch.no_grad():
        traced = torch.jit.trace(lambda x: model(x).last_hidden_state, mel, check_trace=False)
        assert not calls
        assert traced(mel[:1]).shape == (1, 607, 38)


class Adapted(torch.nn.Module):
    """A part with something added to what it gives, as adapters for fine-tuning do."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, *args):
        return self.base(*args) + 1


@pytest.mark.parametrize("change", ["another module", "another forward"])
@pytest.mark.parametrize("part", ["blocks.1", "blocks.0.mlp", "blocks.2.attn"])
def test_a_part_of_somebody_elses_is_used(model, mel, calls, part, change):
    ours = model.get_submodule(part)
    with torch.no_grad():
        before = model(mel).last_hidden_state
        if change == "another module":
            model.set_submodule(part, Adapted(ours))
        else:
            forward = ours.forward
            ours.forward = lambda *args: forward(*args) + 1
        after = model(mel).last_hidden_state
    assert len(calls) == 1
    assert not torch.allclose(before, after)


def test_gradients_are_the_clear_ways(model, mel):
    out = model(mel).last_hidden_state
    out.square().sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if name != "positions")
