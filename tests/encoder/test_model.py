"""The model alone: its output, the input it refuses, and that tracing does not change results."""

import copy
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import melfront
from melfront import encoder
from melfront.encoder import SIZES, EncoderOutput, WhisperEncoder, oracle
from melfront.encoder.checkpoint import shapes
from tests.encoder.peers import TOY, features, rms, true_states
from tests.signals import sample

STEM = ["conv1", "gelu1", "conv2", "gelu2", "positions"]
BLOCK = [
    "attn_ln", "attn.q", "attn.k", "attn.v", "attn.scores", "attn.weights", "attn.context",
    "attn.out", "attn_residual", "mlp_ln", "mlp.fc1", "mlp.gelu", "mlp.fc2", "mlp_residual",
]  # fmt: skip
STAGES = [
    *STEM,
    *(f"block.{i}.{stage}" for i in range(TOY.n_audio_layer) for stage in BLOCK),
    "ln_post",
]


@pytest.fixture
def model(device):
    return WhisperEncoder.from_formula(TOY, device=device)


@pytest.fixture
def mel(device):
    return torch.from_numpy(features(TOY, batch=2)).to(device)


def array(x):
    return x.detach().cpu().double().numpy()


# Output


def test_output(model, mel):
    out = model(mel)
    assert isinstance(out, EncoderOutput)
    assert out.last_hidden_state.shape == out.shape == (2, 11, 26)
    assert out.hidden_states is None
    assert out.last_hidden_state is out[0]
    more = model(mel, output_hidden_states=True)
    assert more.last_hidden_state.equal(out.last_hidden_state)
    assert len(more.hidden_states) == TOY.n_audio_layer + 1
    assert more.hidden_states[-1] is more.last_hidden_state, "the last state is after ln_post"


def test_hidden_states_are_stages_of_the_trace(model, mel):
    stages = encoder.trace(model, mel)
    inputs = ["positions", "block.0.mlp_residual", "block.1.mlp_residual"]
    states = model(mel, output_hidden_states=True).hidden_states
    for state, stage in zip(states, [*inputs, "ln_post"], strict=True):
        assert state.equal(stages[stage]), stage
    # None of the states is the last block's output before ln_post.
    last = stages["block.2.mlp_residual"]
    assert not any(torch.allclose(last, state, rtol=1e-2) for state in states)
    assert model.ln_post(last).equal(states[-1])


def test_trace_has_every_stage_in_order_and_keeps_the_bits(model, mel):
    expected = model(mel).last_hidden_state
    stages = encoder.trace(model, mel)
    assert list(stages) == STAGES
    assert stages["ln_post"].equal(expected)
    assert model(mel).last_hidden_state.equal(expected)
    batch, n_frames, n_ctx, state = 2, TOY.n_frames, TOY.n_audio_ctx, TOY.n_audio_state
    for stage, x in stages.items():
        shape = {
            **dict.fromkeys(("conv1", "gelu1"), (batch, state, n_frames)),
            **dict.fromkeys(("conv2", "gelu2"), (batch, state, n_ctx)),
            **dict.fromkeys(("scores", "weights"), (batch, TOY.n_audio_head, n_ctx, n_ctx)),
            **dict.fromkeys(("fc1", "gelu"), (batch, n_ctx, TOY.n_audio_mlp)),
        }.get(stage.split(".")[-1], (batch, n_ctx, state))
        assert x.shape == shape, stage
        assert not x.requires_grad


def test_trace_matches_the_oracle(model, mel):
    """In float64, stage by stage: a few thousand roundings of 1e-16."""
    model, mel = model.double(), mel.double()
    stages = encoder.trace(model, mel)
    for i, clip in enumerate(mel):
        truth = oracle.trace(clip, model.state_dict(), TOY)
        assert list(truth) == list(stages)
        for stage, expected in truth.items():
            assert expected.shape == stages[stage].shape[1:], stage
            assert rms(array(stages[stage][i]) - expected) <= 1e-13 * rms(expected), stage
    assert np.array_equal(truth["ln_post"], oracle.encode(mel[-1], model.state_dict(), TOY))


def test_trace_at_full_length_keeps_the_bits(device):
    config = replace(SIZES["tiny"], n_mels=128, n_audio_layer=1)
    model = WhisperEncoder.from_formula(config, device=device)
    mel = melfront.log_mel(sample())
    expected = model(mel).last_hidden_state
    stages = encoder.trace(model, mel)
    assert stages["block.0.attn.weights"].shape == (1, 6, 1500, 1500)
    assert stages["ln_post"].equal(expected)


def test_a_batch_is_its_clips_one_by_one(model, mel):
    """Up to rounding: a product of more rows may be summed in another order."""
    both = model(mel).last_hidden_state
    for clip, expected in zip(mel, both, strict=True):
        alone = model(clip).last_hidden_state
        assert alone.shape == (1, 11, 26)
        assert alone.equal(model(clip[None]).last_hidden_state)
        assert rms(array(alone[0]) - array(expected)) <= 1e-6 * rms(array(expected))


# Input


def test_numpy_features_are_converted_for_the_model(device):
    mel = features(TOY, batch=2)
    for dtype in (torch.float32, torch.bfloat16):
        model = WhisperEncoder.from_formula(TOY, dtype=dtype, device=device)
        expected = model(torch.from_numpy(mel).to(device, dtype)).last_hidden_state
        assert model(mel).last_hidden_state.equal(expected)
        assert model(mel.astype(np.float64)).last_hidden_state.equal(expected)
        assert expected.dtype == dtype
        assert expected.device.type == torch.device(device).type


def test_numpy_features_with_any_byte_order_and_strides(model):
    mel = features(TOY, batch=2)
    expected = model(mel).last_hidden_state
    assert model(mel.astype(">f4")).last_hidden_state.equal(expected)
    for axis in range(3):
        flipped = np.flip(np.flip(mel, axis).copy(), axis)
        assert model(flipped).last_hidden_state.equal(expected)
    assert model(mel[:1][::-1]).shape == (1, 11, 26), "contiguous to NumPy, not to torch"


def test_input_that_is_not_a_tensor_or_array(model):
    for mel, kind in [(features(TOY, batch=1).tolist(), "list"), (None, "NoneType")]:
        with pytest.raises(TypeError, match=f"features are a {kind}; pass a tensor or a NumPy"):
            model(mel)


def test_wrong_shape(model, device):
    for shape in [(22,), (8, 22), (2, 8, 22), (22, 7), (2, 22, 7), (1, 2, 7, 22), ()]:
        with pytest.raises(ValueError, match=r"takes \(7, 22\) or \(B, 7, 22\).*n_mels=7") as error:
            model(torch.zeros(shape, device=device))
        assert f"features of shape {shape}" in str(error.value)


@pytest.mark.parametrize("n_frames", [0, 1, 21, 23, 44])
def test_wrong_number_of_frames(model, device, n_frames):
    message = rf"features of {n_frames} frames; this encoder takes 22 \(0.22 s\).*pad_to"
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(7, n_frames, device=device))
    if n_frames > 22 or n_frames == 0:
        with pytest.raises(ValueError, match=message):
            model(torch.zeros(7, n_frames, device=device), strict_length=False)


def test_wrong_dtype(model, mel, device):
    for wrong in (torch.float16, torch.float64, torch.int64):
        with pytest.raises(TypeError, match=rf"features are {wrong} .*pass mel\.to\("):
            model(mel.to(wrong))
    with pytest.raises(TypeError, match=r"pass mel\.to\('.*', torch\.bfloat16\)"):
        model.to(torch.bfloat16)(mel)


def test_wrong_device(model, mel, device):
    with pytest.raises(TypeError, match=rf"on meta, the encoder is torch\.float32 on {device}"):
        model(mel.to("meta"))
    if device != "cpu":
        with pytest.raises(TypeError, match=rf"on cpu, the encoder is torch\.float32 on {device}"):
            model(mel.cpu())


@pytest.mark.parametrize("n_frames", [1, 2, 13, 21, 22])
def test_shorter_features_use_the_first_positions(model, mel, n_frames):
    """Like transformers with a truncated table of positions."""
    short = mel[:, :, :n_frames].double()
    model = model.double()
    out = model(short, strict_length=False, output_hidden_states=True)
    assert out.last_hidden_state.shape == (2, (n_frames + 1) // 2, 26)
    for ours, expected in zip(out.hidden_states, true_states(model, short), strict=True):
        assert rms(array(ours) - expected) <= 1e-13 * rms(expected)
    stages = encoder.trace(model, short, strict_length=False)
    assert stages["ln_post"].equal(out.last_hidden_state)


# Behaviour expected of a module


def test_gradients_match_finite_differences(device):
    """With respect to the features, in float64."""
    config = replace(TOY, n_audio_ctx=3, n_audio_layer=2, n_mels=2)
    model = WhisperEncoder.from_formula(config, dtype=torch.float64, device=device)
    mel = torch.from_numpy(features(config, batch=1)).to(device).double().requires_grad_()
    # A GPU's convolutions may sum a gradient in a different order each time: a few roundings.
    options = {"nondet_tol": 0.0 if device == "cpu" else 1e-12}
    assert torch.autograd.gradcheck(lambda x: model(x).last_hidden_state, mel, **options)
    # Along random directions, not one value after the other: the rest of the model is the same.
    options["fast_mode"] = True
    with encoder.ops.using(attention=encoder.ops.explicit_attention):
        assert torch.autograd.gradcheck(lambda x: model(x).last_hidden_state, mel, **options)


def test_gradients_reach_the_waveform(model, device):
    frontend = melfront.LogMel(n_mels=TOY.n_mels, pad_to=TOY.n_frames / 100)
    clip = torch.from_numpy(sample()[40_000:42_003].copy()).to(device).requires_grad_()
    model(frontend(clip)).last_hidden_state.square().sum().backward()
    assert torch.isfinite(clip.grad).all()
    assert (clip.grad != 0).float().mean() > 0.99


def test_positions_are_not_trained(device):
    made = {
        "from_formula": WhisperEncoder.from_formula(TOY, device=device),
        "from_weights": WhisperEncoder.from_weights(
            TOY, WhisperEncoder.from_formula(TOY, device=device).state_dict()
        ),
        "init": WhisperEncoder(TOY),
    }
    for how, model in made.items():
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        assert frozen == ["positions"], how


def test_training_mode_has_no_effect(model, mel):
    """Whisper has no dropout, and transformers' layerdrop is 0."""
    assert not model.training
    expected = model(mel).last_hidden_state
    assert model.train()(mel).last_hidden_state.equal(expected)
    assert model.eval()(mel).last_hidden_state.equal(expected)


def test_state_dict_round_trip(model, mel, device):
    weights = model.state_dict()
    assert {name: tuple(w.shape) for name, w in weights.items()} == shapes(TOY)
    assert list(weights) == list(dict(model.named_parameters()))
    empty = WhisperEncoder(TOY).to(device)
    empty.load_state_dict(weights)
    same = [empty, WhisperEncoder.from_weights(TOY, weights), copy.deepcopy(model)]
    for other in same:
        assert other(mel).last_hidden_state.equal(model(mel).last_hidden_state)
    weights["blocks.1.attn.k.bias"] = torch.zeros(26)
    with pytest.raises(RuntimeError, match=r"blocks\.1\.attn\.k\.bias"):
        WhisperEncoder.from_weights(TOY, weights)


def test_from_weights_copies_nothing(model):
    weights = model.state_dict()
    other = WhisperEncoder.from_weights(TOY, weights)
    for name, tensor in other.state_dict().items():
        assert tensor.data_ptr() == weights[name].data_ptr(), name


def test_model_uses_only_plain_torch_modules(model):
    kinds = {type(module) for module in model.modules()}
    known = {nn.Conv1d, nn.Linear, nn.LayerNorm, nn.ModuleList}
    assert {kind.__module__ for kind in kinds - known} == {"melfront.encoder.model"}
    assert not list(model.buffers())


def test_meta_device():
    """No constant stays on the CPU: mixing devices would raise an error."""
    with torch.device("meta"):
        model = WhisperEncoder(SIZES["large-v3"])
    clips = torch.empty(3, 16_007, device="meta")
    mel = melfront.LogMel(n_mels=128)(clips)
    assert mel.shape == (3, 128, 3000)
    out = model(mel, output_hidden_states=True)
    assert [x.shape for x in out.hidden_states] == [(3, 1500, 1280)] * 33
    assert {x.device.type for x in out.hidden_states} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_trace_on_meta(dtype):
    with torch.device("meta"):
        model = WhisperEncoder(replace(SIZES["tiny.en"], n_audio_layer=1)).to(dtype)
    stages = encoder.trace(model, torch.empty(80, 3000, device="meta", dtype=dtype))
    assert {(x.device.type, x.dtype) for x in stages.values()} == {("meta", dtype)}


def test_inference_mode(model, mel):
    expected = model(mel).last_hidden_state
    assert expected.requires_grad
    for context in (torch.inference_mode(), torch.no_grad()):
        with context:
            out = model(mel).last_hidden_state
        assert not out.requires_grad
        assert out.equal(expected.detach())


def test_repeated_and_concurrent_forward_passes_give_the_same_bits(device):
    config = replace(SIZES["tiny"], n_audio_ctx=211)
    model = WhisperEncoder.from_formula(config, device=device)
    mel = features(config, batch=2)
    results = []

    def run():
        with torch.inference_mode():
            results.append(model(mel).last_hidden_state)

    run()
    run()
    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 5
    assert all(result.equal(results[0]) for result in results)
