"""Every hidden state against transformers' encoder with the same weights and features."""

from dataclasses import replace
from functools import lru_cache

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from tokenizers import Tokenizer
from transformers import WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

import melfront
from melfront.encoder import SIZES, EncoderConfig, WhisperEncoder
from melfront.encoder.checkpoint import hf_name
from melfront.encoder.model import FLOAT16_LIMIT
from tests.encoder.peers import (
    DISTANCE_BOUND,
    TOY,
    assert_equal_to_rounding,
    distance,
    features,
    hidden_states,
    noise,
    theirs,
    true_states,
)
from tests.signals import sample

ATTENTIONS = ("sdpa", "eager")
SIXTEEN_BITS = (torch.bfloat16, torch.float16)
QUOTE = (
    "And so my fellow Americans ask not what your country can do for you, "
    "ask what you can do for your country."
)


def compare(model, mel, attentions=ATTENTIONS):
    """Compare with transformers for each attention implementation. Features (B, M, F), NumPy."""
    parameter = model.conv1.weight
    mel = torch.from_numpy(mel).to(parameter.device, parameter.dtype)
    ours, truth = hidden_states(model, mel), true_states(model, mel)
    for attention in attentions:
        floor = hidden_states(theirs(model, attention), mel)
        assert_equal_to_rounding(ours, floor, truth, parameter.dtype)


@st.composite
def configs(draw):
    """Small encoders. The width is even, because half of each row of positions is sines."""
    n_head = draw(st.integers(1, 5))
    head_dim = draw(st.sampled_from((3, 7, 13) if n_head % 2 == 0 else (4, 6, 14)))
    return EncoderConfig(
        n_mels=draw(st.sampled_from((1, 5, 11))),
        n_audio_ctx=draw(st.sampled_from((1, 2, 17, 29))),
        n_audio_state=n_head * head_dim,
        n_audio_head=n_head,
        n_audio_layer=draw(st.integers(1, 3)),
        n_audio_mlp=draw(st.sampled_from((19, 31))),
    )


@given(config=configs(), batch=st.integers(1, 3), seed=st.integers(0, 99))
def test_small_encoders_of_any_shape(device, config, batch, seed):
    model = WhisperEncoder.from_formula(config, device=device)
    compare(model, features(config, batch, seed))


@pytest.mark.parametrize("size", sorted({SIZES[n]: n for n in reversed(SIZES)}.values()))
def test_every_published_size_at_small_depth(device, size):
    config = replace(SIZES[size], n_audio_layer=2, n_audio_ctx=37)
    model = WhisperEncoder.from_formula(config, device=device)
    compare(model, features(config, batch=1))


def test_formula_weights_at_full_length(device):
    model = WhisperEncoder.from_formula(replace(SIZES["tiny"], n_mels=128), device=device)
    compare(model, melfront.log_mel(sample())[None])


@pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)
def test_sixteen_bits(device, dtype):
    for config, batch in (TOY, 3), (replace(SIZES["base"], n_audio_layer=3, n_audio_ctx=37), 2):
        model = WhisperEncoder.from_formula(config, dtype=dtype, device=device)
        compare(model, features(config, batch))


# Trained weights and real speech


@lru_cache(maxsize=1)
def trained(folder):
    """The trained weights loaded by transformers, independently of our loader."""
    return WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("clip", ["jfk", pytest.param("sample", marks=pytest.mark.slow)])
def test_trained_weights(device, clip, tiny_en, jfk_path):
    audio = melfront.load_audio(jfk_path) if clip == "jfk" else sample()
    mel = torch.from_numpy(melfront.log_mel(audio, n_mels=80))[None].to(device)
    model = WhisperEncoder.from_pretrained(tiny_en, device=device)
    ours, truth = hidden_states(model, mel), true_states(model, mel)
    for attention in ATTENTIONS:
        other = trained(tiny_en).model.encoder.to(device)
        other.set_attn_implementation(attention)
        assert_equal_to_rounding(ours, hidden_states(other, mel), truth)


@pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)
def test_trained_weights_in_sixteen_bits(device, dtype, tiny_en, jfk_path):
    """Two parts of a clip, with the table of positions cut to the first 211."""
    whole = WhisperEncoder.from_pretrained(tiny_en, dtype=dtype, device=device)
    config = replace(whole.config, n_audio_ctx=211)
    weights = whole.state_dict()
    weights["positions"] = weights["positions"][: config.n_audio_ctx]
    mel = melfront.log_mel(melfront.load_audio(jfk_path), n_mels=80)
    halves = [mel[:, start : start + config.n_frames] for start in (0, config.n_frames)]
    compare(WhisperEncoder.from_weights(config, weights), np.stack(halves))


@pytest.mark.slow
def test_transformers_decodes_our_hidden_states(device, tiny_en, jfk_path):
    decoder = trained(tiny_en).to(device)
    model = WhisperEncoder.from_pretrained(tiny_en, device=device)
    clip = torch.from_numpy(melfront.load_audio(jfk_path)).to(device)
    mel = melfront.log_mel([clip, clip[: len(clip) // 2]], n_mels=80)
    decode = Tokenizer.from_file(str(tiny_en / "tokenizer.json")).decode_batch

    ids = decoder.generate(encoder_outputs=model(mel[:1]), max_new_tokens=67)
    assert decode(ids.tolist())[0].strip() == QUOTE
    out = model(mel)
    for options, outputs in ({}, out), ({"num_beams": 2}, BaseModelOutput(*out)):
        ids = decoder.generate(encoder_outputs=outputs, max_new_tokens=4, **options)
        assert ids.equal(decoder.generate(mel, max_new_tokens=4, **options)), options

    # The decoder's forward accepts it too, with the same logits as for transformers' encoder.
    start = torch.tensor([[50257, 50362]] * 2, device=device)  # start of transcript, no timestamps
    with torch.inference_mode():
        logits = decoder(encoder_outputs=out, decoder_input_ids=start).logits
        expected = decoder(input_features=mel, decoder_input_ids=start).logits
    assert torch.allclose(logits, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


# Values outside the range of 16 bits


def test_float16_is_clamped_as_in_transformers(device):
    model = WhisperEncoder.from_formula(TOY, dtype=torch.float16, device=device)
    with torch.no_grad():
        for block, sign in zip(model.blocks, (1, -1, 1), strict=True):
            block.mlp.fc2.bias[:5] = sign * 65_000.0
    mel = torch.from_numpy(features(TOY, batch=2)).to(device, torch.float16)
    ours, other = hidden_states(model, mel), hidden_states(theirs(model), mel)
    for i, (a, b) in enumerate(zip(ours, other, strict=True)):
        assert np.isfinite(a).all(), i
        assert distance([a], [b])[0] <= DISTANCE_BOUND[torch.float16], i
    assert FLOAT16_LIMIT == 64_504
    # float16 numbers of this size are multiples of 32.
    assert ours[1].max() == np.float16(FLOAT16_LIMIT) == 64_512, "the clamp was not reached"
    assert abs(ours[2]).max() < FLOAT16_LIMIT

    # bfloat16 has the range of float32: neither is clamped.
    for dtype in (torch.bfloat16, torch.float32):
        ours = hidden_states(model.to(dtype), mel.to(dtype))
        assert ours[1].max() > 64_900, "the clamp would give 64,512"


# Gradients


def test_gradients(device):
    """Gradients of a randomly weighted sum of the output, by the features and every weight."""
    model = WhisperEncoder.from_formula(TOY, dtype=torch.float64, device=device)
    other = theirs(model, "eager").requires_grad_(True)
    mel = torch.from_numpy(features(TOY, batch=3)).to(device).double()
    rng = torch.Generator().manual_seed(1)
    weigh = torch.randn(3, TOY.n_audio_ctx, TOY.n_audio_state, generator=rng).to(device)
    gradients = []
    for encoder in (model, other):
        for parameter in encoder.parameters():
            parameter.grad = None
        x = mel.clone().requires_grad_()
        (encoder(x).last_hidden_state * weigh).sum().backward()
        gradients.append({"mel": x.grad} | {n: p.grad for n, p in encoder.named_parameters()})
    ours, expected = gradients
    names = {name: name if name == "mel" else hf_name(name) for name in ours}
    assert len(ours) == len(expected)
    assert ours["positions"] is None, "frozen here; transformers' are made trainable above"
    for name in ours.keys() - {"positions"}:
        a, b = (g.cpu().numpy() for g in (ours[name], expected[names[name]]))
        # float64 rounds by 1e-16. The gradients of q and k are small differences of large numbers:
        # in float32, the two encoders would differ by 2e-5.
        assert distance([a], [b])[0] <= 1e-12, name


# Full size


@pytest.mark.slow
def test_large_v3(device):
    """128 bins, 32 blocks, 1280 wide, 20 heads, 1500 positions: 33 hidden states of the sample.

    Needs 12 GB. The oracle alone takes two minutes: 2.7e12 operations in float64.
    """
    audio = sample()
    mel, mask = melfront.log_mel(audio[None], return_mask=True)
    assert len(audio) == 129_600
    assert mel.shape == (1, 128, 3000)
    assert int(mask.sum()) == 810
    model = WhisperEncoder.from_formula(SIZES["large-v3"], device=device)
    mel = torch.from_numpy(mel).to(device)
    ours, floor = hidden_states(model, mel), hidden_states(theirs(model), mel)
    assert [x.shape for x in ours] == [(1, 1500, 1280)] * 33
    assert max(distance(ours, floor)) <= DISTANCE_BOUND[torch.float32]
    truth = true_states(model, mel)
    print("noise", [f"{x:.2f}" for x in noise(ours, floor, truth)])
    print("from transformers", [f"{x:.1e}" for x in distance(ours, floor)])
    print("from the truth", [f"{x:.1e}" for x in distance(ours, truth)])
    assert_equal_to_rounding(ours, floor, truth)
