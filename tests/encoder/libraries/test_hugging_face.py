"""Our encoder in transformers' models gives what transformers' own gives, to whoever asks."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import (
    WhisperConfig,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    WhisperModel,
)
from transformers.modeling_outputs import BaseModelOutput

from melfront import encoder
from melfront.encoder.libraries import whisper_modules
from tests import shapes
from tests.conftest import CHECKOUT
from tests.encoder.peers import DISTANCE_BOUND, distance

KINDS = (WhisperForConditionalGeneration, WhisperModel, WhisperForAudioClassification)
# Heads of 16, so that the factor 1 / sqrt(16) is exact wherever it is applied.
SIZES = {
    "num_mel_bins": 7,
    "d_model": 48,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_ffn_dim": 19,
    "decoder_ffn_dim": 17,
    "max_source_positions": 37,
    "max_target_positions": 11,
    "vocab_size": 29,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
# Two float64 encoders differ by 1e-16 for each sum; gradients of q and k, small differences of
# large numbers, lose some digits more.
FLOAT64 = 1e-11


def build(kind=WhisperForConditionalGeneration, dtype=torch.float64, **options):
    """A model of transformers with random weights: biases and norms too, which start at 0 and 1."""
    rng = torch.Generator().manual_seed(1)
    model = kind(WhisperConfig(**SIZES | options)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
    return model.eval()


def pair(kind=WhisperForConditionalGeneration, dtype=torch.float64, **options):
    """The same model twice: transformers' and with our encoder."""
    model = build(kind, dtype, **options)
    return model, encoder.for_transformers(copy.deepcopy(model))


def features(dtype=torch.float64, n_frames=2 * SIZES["max_source_positions"]):
    shape = (2, SIZES["num_mel_bins"], n_frames)
    return (0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(2)) - 0.3).to(dtype)


def assert_close(ours, theirs, bound=FLOAT64):
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    a, b = (x.detach().double().numpy() for x in (ours, theirs))
    assert distance([a], [b])[0] <= bound


def is_ours(model):
    parts = list(model.get_encoder().modules())
    kinds = [type(part).__module__ for part in parts if "Whisper" in type(part).__name__]
    ours = [kind == whisper_modules.__name__ for kind in kinds]
    assert len(set(ours)) == 1
    assert len(ours) == 1 + 2 * SIZES["encoder_layers"]
    return ours[0]


# What it returns


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_every_hidden_state(dtype, attention):
    theirs, ours = pair(dtype=dtype, attn_implementation=attention)
    mel = features(dtype)
    expected = theirs.get_encoder()(mel, output_hidden_states=True)
    out = ours.get_encoder()(mel, output_hidden_states=True)
    assert len(out.hidden_states) == len(expected.hidden_states) == SIZES["encoder_layers"] + 1
    for a, b in zip(out.hidden_states, expected.hidden_states, strict=True):
        assert_close(a, b, DISTANCE_BOUND[dtype])
    assert out.hidden_states[-1] is out.last_hidden_state
    assert_close(out.last_hidden_state, expected.last_hidden_state, DISTANCE_BOUND[dtype])


@torch.no_grad()
def test_float16_is_clamped():
    theirs, ours = (model.get_encoder() for model in pair(dtype=torch.float16))
    for model in (theirs, ours):
        model.layers[0].fc2.bias[:5] = 65_000.0
    mel = features(torch.float16)
    a, b = (model(mel, output_hidden_states=True).hidden_states[1] for model in (ours, theirs))
    assert a.equal(b)
    assert a.max() == np.float16(64_504), "the clamp was reached"


def test_attention_weights_are_in_the_graph():
    theirs, ours = pair(attn_implementation="eager")
    gradients = []
    for model in (theirs, ours):
        out = model.get_encoder()(features(), output_attentions=True)
        assert len(out.attentions) == SIZES["encoder_layers"]
        for weights in out.attentions:
            weights.retain_grad()
        out.last_hidden_state.square().sum().mul(out.attentions[0].square().sum()).backward()
        gradients.append([*out.attentions, *(weights.grad for weights in out.attentions)])
    for a, b in zip(*reversed(gradients), strict=True):
        assert a.shape == (2, 3, 37, 37)
        assert_close(a, b)


def test_attention_weights_without_eager_attention():
    """transformers gives none then."""
    _, ours = pair(attn_implementation="sdpa")
    out = ours.get_encoder()(features(), output_attentions=True)
    assert_close(out.last_hidden_state, ours.get_encoder()(features()).last_hidden_state)
    for weights in out.attentions:
        assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


def test_arguments_and_mapping():
    theirs, ours = (model.get_encoder() for model in pair(attn_implementation="eager"))
    mel = features()
    out = ours(mel)
    assert type(out) is BaseModelOutput
    assert list(out) == list(theirs(mel)) == ["last_hidden_state"]
    assert out.get("attentions") is None
    both = {"output_hidden_states": True, "output_attentions": True, "return_dict": False}
    assert [type(x) for x in ours(mel, **both)] == [type(x) for x in theirs(mel, **both)]
    assert_close(ours(mel, torch.ones(2, 74), head_mask=None, use_cache=True)[0], out[0])
    assert_close(ours(input_features=mel, attention_mask=None)[0], out[0])
    for model in (ours, theirs):
        model.config.output_hidden_states = model.config.output_attentions = True
    assert (
        list(ours(mel))
        == list(theirs(mel))
        == [
            "last_hidden_state",
            "hidden_states",
            "attentions",
        ]
    )
    assert list(ours(mel, output_hidden_states=False, output_attentions=False)) == list(out)
    for model in (ours, theirs):
        model.config.return_dict = False
    assert len(ours(mel)) == len(theirs(mel)) == 3


@pytest.mark.parametrize("which", [1, -1, [0, -2], [7, -9, 2]])
def test_some_hidden_states(which):
    _, ours = pair()
    every = ours.get_encoder()(features(), output_hidden_states=True).hidden_states
    some = ours.get_encoder()(features(), output_hidden_states=which).hidden_states
    indices = [which] if isinstance(which, int) else which
    wanted = {range(3)[i] for i in indices if -3 <= i < 3}
    for i, (a, b) in enumerate(zip(some, every, strict=True)):
        assert (a is not None) == (i in wanted)
        assert a is None or a.equal(b)


def test_wrong_features_are_refused_as_theirs_are():
    theirs, ours = pair(dtype=torch.float32)
    for model in (theirs, ours):
        with pytest.raises(ValueError, match="73"):
            model.get_encoder()(features(torch.float32)[..., :-1])
    messages = []
    for model in (theirs, ours):
        with pytest.raises(RuntimeError) as refused:
            model.get_encoder()(features(torch.float64))
        messages.append(str(refused.value))
    assert messages[0] == messages[1]


@torch.no_grad()
def test_autocast():
    theirs, ours = (model.get_encoder() for model in pair(dtype=torch.float32))
    mel = features(torch.float32)
    exact = ours(mel).last_hidden_state
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, expected = ours(mel).last_hidden_state, theirs(mel).last_hidden_state
    assert not out.equal(exact), "autocast had no effect"
    assert_close(out, expected, DISTANCE_BOUND[torch.bfloat16])


# The model around it


@pytest.mark.parametrize("kind", KINDS)
def test_the_parameters_are_the_same(kind):
    model = build(kind)
    hook = model.get_encoder().layers[1].register_forward_hook(lambda *_: None)
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    frozen = [p.requires_grad for p in model.parameters()]
    assert not is_ours(model)
    assert encoder.for_transformers(model) is model
    assert encoder.for_transformers(model) is model, "a second time"
    assert is_ours(model)
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before
    assert [p.requires_grad for p in model.parameters()] == frozen
    assert hook.id in model.get_encoder().layers[1]._forward_hooks
    inner = model.get_encoder()
    assert inner.main_input_name == "input_features"
    assert (inner.dtype, inner.device) == (torch.float64, torch.device("cpu"))
    assert inner.config is model.config
    assert inner.get_input_embeddings() is inner.conv1


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_it_saves_is_transformers_own(kind, tmp_path):
    theirs, ours = pair(kind, dtype=torch.float32)
    ours.save_pretrained(tmp_path)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    plain = kind.from_pretrained(tmp_path).eval()
    mine = encoder.for_transformers(tmp_path, dtype=torch.float32).eval()
    half = encoder.for_transformers(str(tmp_path), dtype=torch.bfloat16)
    assert type(mine) is type(half) is kind
    assert (is_ours(plain), is_ours(mine)) == (False, True)
    assert half.dtype == torch.bfloat16
    for model in (plain, mine):
        for (name, a), b in zip(
            model.state_dict().items(), ours.state_dict().values(), strict=True
        ):
            assert a.equal(b), name
    options = (
        {}
        if kind is WhisperForAudioClassification
        else {"decoder_input_ids": torch.ones(2, 3).long()}
    )
    mel = features(torch.float32)
    expected = plain(mel, **options)[0]
    for model in (mine, ours, theirs):
        assert_close(model(mel, **options)[0], expected, DISTANCE_BOUND[torch.float32])


def test_an_encoder_alone(tmp_path):
    theirs, ours = (model.get_encoder() for model in pair(dtype=torch.float32))
    assert encoder.for_transformers(theirs) is theirs
    theirs.save_pretrained(tmp_path)
    assert theirs.config.architectures == ["WhisperEncoder"]
    again = encoder.for_transformers(tmp_path)
    assert again(features(torch.float32))[0].equal(ours(features(torch.float32))[0])


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_is_ours_too(again):
    _, ours = pair()
    other = again(ours)
    assert is_ours(other)
    expected = ours.get_encoder()(features())[0]
    assert other.get_encoder()(features())[0].equal(expected)
    with torch.no_grad():
        ours.get_encoder().conv1.weight.zero_()
    assert other.get_encoder()(features())[0].equal(expected), "it shares no weight"
    other.tie_weights()
    assert other.float().get_encoder()(features(torch.float32))[0].dtype == torch.float32


@torch.no_grad()
def test_generate():
    theirs, ours = pair()
    options = {"return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True}
    for more in ({}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}):
        expected = theirs.generate(features(), max_new_tokens=5, **options, **more)
        out = ours.generate(features(), max_new_tokens=5, **options, **more)
        assert out.sequences.equal(expected.sequences)
        assert len(out.encoder_hidden_states) == SIZES["encoder_layers"] + 1
        for a, b in zip(out.scores, expected.scores, strict=True):
            finite = b.isfinite()
            assert a.isfinite().equal(finite)
            assert_close(a[finite], b[finite])


def test_every_shape_comment():
    _, ours = pair(WhisperModel)

    def everything():
        ours.encoder.train()(features(), output_attentions=True)
        ours.encoder.eval()(features())

    report = shapes.check(everything, [whisper_modules.__file__])
    assert not report.wrong, "\n".join(report.wrong)
    assert not report.unchecked, "\n".join(report.unchecked)
    assert len(report.checked) >= 10


# Refusals


def test_refusals(tmp_path):
    with pytest.raises(TypeError, match="Linear contains no Whisper encoder"):
        encoder.for_transformers(torch.nn.Linear(2, 3))
    model = build()
    with pytest.raises(TypeError, match="options dtype are for loading"):
        encoder.for_transformers(model, dtype=torch.float16)
    with pytest.raises(ValueError, match="activation is relu"):
        encoder.for_transformers(build(activation_function="relu"))
    model.model.encoder.layers[1].self_attn.forward = lambda *_: None
    with pytest.raises(TypeError, match="WhisperAttention is a WhisperAttention or has another"):
        encoder.for_transformers(model)
    assert type(model.model.encoder) is not whisper_modules.TransformersEncoder, "none is changed"
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2"]}')
    with pytest.raises(ValueError, match="is a GPT2 of type gpt2; expected a Whisper"):
        encoder.for_transformers(tmp_path)
    with pytest.raises(OSError, match="nowhere"):
        encoder.for_transformers(tmp_path / "nowhere")


def test_without_transformers():
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "import pydoc; from melfront import encoder\n"
        "assert 'for_transformers' in pydoc.render_doc(encoder)\n"
        "try: encoder.for_transformers('openai/whisper-tiny')\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    install = "pip install 'melfront[transformers]'"
    assert done.stdout == f"for_transformers needs transformers: {install}\n"
