"""Our encoder, and our front end, inside openai-whisper's model, next to openai-whisper's own."""

import copy
import json
import pickle
import sys
import warnings
from collections import Counter
from importlib import import_module

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import melfront
from melfront import encoder
from melfront.encoder.checkpoint import hf_name, openai_name
from tests.encoder.peers import DISTANCE_BOUND, NOISE_BOUND
from tests.project.test_readme import assert_prints, blocks
from tests.signals import Signal

peft = pytest.importorskip("peft")
whisper = pytest.importorskip("whisper")

# Theirs of the decoder, from transformers' name of the same weight; the encoder has a table.
DECODER = {
    "model.": "",
    "layers.": "blocks.",
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "final_layer_norm": "mlp_ln",
    "layer_norm": "ln",
    "self_attn": "attn",
    "encoder_attn": "cross_attn",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "embed_tokens": "token_embedding",
    "embed_positions.weight": "positional_embedding",
}
# Sizes that differ, with the vocabulary of a multilingual model: 7 bins, 22 frames, 11 positions.
DIMS = whisper.model.ModelDimensions(7, 11, 26, 2, 3, 51_865, 17, 26, 2, 1)


def toy() -> torch.nn.Module:
    torch.manual_seed(5)
    model = whisper.model.Whisper(DIMS)
    torch.nn.init.normal_(model.decoder.positional_embedding)
    return model.eval()


def features(batch: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    rng = torch.Generator().manual_seed(7)
    return torch.randn(batch, 7, 22, generator=rng).to(dtype)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def theirs(tiny_en):
    """whisper-tiny.en in openai-whisper's own model."""
    about = json.loads((tiny_en / "config.json").read_text())
    config = encoder.EncoderConfig.from_hf(about)
    stored = load_file(tiny_en / "model.safetensors")
    weights = {}
    for ours in encoder.checkpoint.shapes(config):
        weights["encoder." + openai_name(ours)] = stored.pop("model.encoder." + hf_name(ours))
    for name, weight in stored.items():
        for part, other in DECODER.items():
            name = name.replace(part, other)
        weights[name] = weight
    dims = whisper.model.ModelDimensions(
        config.n_mels,
        config.n_audio_ctx,
        config.n_audio_state,
        config.n_audio_head,
        config.n_audio_layer,
        about["vocab_size"],
        about["max_target_positions"],
        about["d_model"],
        about["decoder_attention_heads"],
        about["decoder_layers"],
    )
    model = whisper.model.Whisper(dims)
    model.load_state_dict(weights)
    return model.eval()


@pytest.fixture(scope="module")
def ours(theirs):
    return encoder.for_openai(copy.deepcopy(theirs))


@pytest.fixture(scope="module")
def jfk(jfk_path):
    return melfront.load_audio(jfk_path)


# The trained model


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("options", "copies"),
    [
        ({"word_timestamps": True}, 1),
        pytest.param({"temperature": 0.0}, 3, marks=SLOW),  # 33 s: two windows
        pytest.param({"beam_size": 3}, 1, marks=SLOW),
    ],
    ids=str,
)
def test_transcribe(theirs, ours, jfk, options, copies):
    clip = np.tile(jfk, copies)
    other = theirs.transcribe(clip, fp16=False, **options)
    mine = ours.transcribe(clip, fp16=False, **options)
    assert "ask not what your country can do for you" in mine["text"]
    assert mine["text"] == other["text"]
    for a, b in zip(mine["segments"], other["segments"], strict=True):
        assert [a[key] for key in ("start", "end", "tokens")] == [
            b[key] for key in ("start", "end", "tokens")
        ]
        # Hidden states differ by up to 5e-6 of their size: see DISTANCE_BOUND. A log probability
        # differs by that times the size of a logit, which is below 100.
        assert a["avg_logprob"] == pytest.approx(b["avg_logprob"], abs=5e-4)
        for word, its in zip(a.get("words", []), b.get("words", []), strict=True):
            assert [word[key] for key in ("word", "start", "end")] == [
                its[key] for key in ("word", "start", "end")
            ]
            assert word["probability"] == pytest.approx(its["probability"], abs=5e-4)
    assert ("words" in mine["segments"][0]) == ("word_timestamps" in options)


@pytest.mark.slow
def test_decode_in_float16(theirs, ours, jfk):
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(jfk))
    options = whisper.DecodingOptions(language="en", fp16=True, sample_len=19)
    mine, other = ours.decode(mel, options), theirs.decode(mel, options)
    assert mine.audio_features.dtype == torch.float16
    assert mine.tokens == other.tokens
    assert "ask not what your country can do" in mine.text


@pytest.mark.slow
def test_page(theirs, jfk_path, tmp_path, monkeypatch, capsys):
    """The page's blocks, with a model that is not downloaded."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "speech.flac").symlink_to(jfk_path)
    monkeypatch.setattr(whisper, "load_model", lambda _name: copy.deepcopy(theirs))
    module = import_module("whisper.transcribe")
    monkeypatch.setattr(module, "log_mel_spectrogram", whisper.log_mel_spectrogram)  # put back
    spaces = []
    for block in blocks("docs/libraries.md"):
        if block.language == "py" and "whisper.load_model" in block.text:
            spaces.append({})
            exec(compile(block.text, block.title, "exec"), spaces[-1])
            assert_prints(block.shown, capsys.readouterr().out)
    mine = spaces[1]["log_mel_spectrogram"]
    assert module.log_mel_spectrogram is mine
    for n, padding, n_mels in ((401, 0, 128), (9_001, 480_000, 80), (176_000, 159, 80)):
        audio = Signal("speech", n, seed=n).array()
        ours, its = (f(audio, n_mels, padding) for f in (mine, whisper.log_mel_spectrogram))
        truth = melfront.oracle.log_mel(np.pad(audio, (0, padding)), n_mels=n_mels, pad_to=None)
        assert ours.shape == its.shape
        # Theirs is as far from float64 as it is, our kernel at most 5e-7.
        assert (ours - its).abs().max() <= np.abs(its.numpy() - truth).max() + 5e-7


# Small models


@pytest.mark.parametrize("dtype", DISTANCE_BOUND, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_embed_audio(dtype, batch):
    """The weights are in float32, whatever the features are."""
    model, mel = toy(), features(batch, dtype)
    with torch.no_grad():
        truth = model.embed_audio(mel.float())
        other = model.embed_audio(mel)
        mine = encoder.for_openai(model).embed_audio(mel)
    assert mine.dtype == other.dtype == dtype
    if dtype == torch.float32:
        assert distance(mine, other) <= DISTANCE_BOUND[dtype]
    else:
        assert distance(mine, truth) <= NOISE_BOUND[dtype] * distance(other, truth)


def test_weights_in_16_bits():
    """A model that was converted as a whole, which theirs cannot run: its layer norms mix types."""
    model = encoder.for_openai(toy())
    with torch.no_grad():
        truth = model.embed_audio(features(2))
        mine = model.half().embed_audio(features(2).half())
    assert mine.dtype == torch.float16
    assert distance(mine, truth) <= 3e-3  # three roundings of 2^-10


def test_detect_language():
    model, mel = toy(), features(2)
    tokens, other = model.detect_language(mel)
    mine_tokens, mine = encoder.for_openai(model).detect_language(mel)
    assert torch.equal(mine_tokens, tokens)
    for a, b in zip(mine, other, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert len(mine[0]) == 99


def test_weights_keep_their_names_and_places():
    model = toy()
    names, pointers = list(model.state_dict()), {p.data_ptr() for p in model.parameters()}
    assert encoder.for_openai(model) is model
    assert list(model.state_dict()) == names
    assert {p.data_ptr() for p in model.parameters()} == pointers
    other = toy()
    with torch.no_grad():
        for weight in other.encoder.parameters():
            weight.mul_(1.01)
        model.load_state_dict(other.state_dict())
        assert distance(model.embed_audio(features(1)), other.embed_audio(features(1))) <= 5e-6


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), encoder.for_openai]
)
def test_copies_and_a_second_call(again):
    model = encoder.for_openai(toy())
    with torch.no_grad():
        assert torch.equal(again(model).embed_audio(features(1)), model.embed_audio(features(1)))


def test_slots_and_trace():
    model, calls = encoder.for_openai(toy()), Counter()
    with torch.no_grad():
        mine = model.embed_audio(features(1))

    def counted(slot):
        def call(*args, **options):
            calls[slot] += 1
            return getattr(encoder.ops.OURS, slot)(*args, **options)

        return call

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")  # a slot that a part does not use is said
        slots = ("attention", "conv1d", "layer_norm", "linear")
        with encoder.ops.using(**{slot: counted(slot) for slot in slots}):
            assert torch.equal(model.embed_audio(features(1)), mine)
            model.embed_audio(features(1, torch.float16))
    assert calls == {"attention": 2 * 3, "conv1d": 2 * 2, "layer_norm": 2 * 7, "linear": 2 * 18}
    stages = encoder.trace(model.encoder, features(1))
    assert torch.equal(stages["ln_post"], mine)
    assert "block.2.attn.weights" in stages


def test_hooks_and_adapters():
    """On their names, as in their model: a hook, and LoRA on encoder and decoder alike."""
    mel, tokens = features(2), torch.tensor([[1, 2, 3]] * 2)
    lora = peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
    logits, gradients = [], []
    for put in (lambda model: model, encoder.for_openai):
        model = put(toy())
        with torch.no_grad():
            plain = model(mel, tokens)
        torch.manual_seed(3)
        peft.inject_adapter_in_model(lora, model)
        model.encoder.blocks[1].mlp[2].register_forward_hook(lambda _m, _x, out: 1.5 * out)
        logits.append(model(mel, tokens))
        assert distance(logits[-1], plain) > 1e-3
        logits[-1].square().mean().backward()
        adapted = {n: p.grad for n, p in model.encoder.named_parameters() if "lora" in n}
        assert len(adapted) == 3 * 2 * 2
        gradients.append(adapted)
    assert distance(logits[1], logits[0]) <= DISTANCE_BOUND[torch.float32]
    for name, gradient in gradients[0].items():
        # The gradients of q are small differences of large numbers: in float32 2e-5 apart.
        assert distance(gradients[1][name], gradient) <= 1e-3, name


def test_anything_else_is_refused():
    with pytest.raises(TypeError, match=r"whisper\.model\.Whisper; pass what whisper\.load_model"):
        encoder.for_openai(toy().encoder)


def test_without_openai_whisper(monkeypatch):
    monkeypatch.setitem(sys.modules, "whisper.model", None)
    with pytest.raises(ImportError, match="needs whisper: pip install openai-whisper"):
        encoder.for_openai(toy())
