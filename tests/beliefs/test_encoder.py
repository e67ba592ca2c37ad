"""Common beliefs about Whisper's encoder, each checked on the other libraries.

See test_front_end.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper import modeling_whisper

import melfront
from melfront.encoder import SIZES, WhisperEncoder, formula
from tests.beliefs.test_front_end import extract, whisper
from tests.encoder.peers import TOY, features, hidden_states, theirs
from tests.signals import Signal


def openai_encoder(model):
    """openai-whisper's encoder with the weights of our model."""
    config = model.config
    encoder = whisper.model.AudioEncoder(
        config.n_mels,
        config.n_audio_ctx,
        config.n_audio_state,
        config.n_audio_head,
        config.n_audio_layer,
    )
    names = {"attn.q.": "attn.query.", "attn.k.": "attn.key.", "attn.v.": "attn.value."}
    names |= {"mlp.fc1.": "mlp.0.", "mlp.fc2.": "mlp.2.", "positions": "positional_embedding"}
    weights = {}
    for name, tensor in model.state_dict().items():
        for ours, openai in names.items():
            name = name.replace(ours, openai)
        weights[name] = tensor
    encoder.load_state_dict(weights)
    return encoder.eval()


@pytest.fixture(scope="module")
def toy():
    """The same small encoder in transformers and in openai-whisper."""
    # openai-whisper's MLP is always four times as wide as its state.
    model = WhisperEncoder.from_formula(replace(TOY, n_audio_mlp=4 * TOY.n_audio_state))
    encoders = {"transformers": theirs(model), "openai": openai_encoder(model)}
    mel = torch.from_numpy(features(TOY, batch=1))
    with torch.inference_mode():
        a, b = (encoder(mel)[0] for encoder in encoders.values())
    # The same encoder, up to rounding. [0] of OpenAI's tensor is already the clip.
    assert torch.allclose(a[0], b, rtol=0, atol=1e-5 * float(b.abs().max()))
    return encoders


@pytest.fixture(scope="module")
def full_length():
    """transformers' encoder for 30 s: whisper-tiny's dimensions, formula weights."""
    return theirs(WhisperEncoder.from_formula(SIZES["tiny"]))


def test_a_position_is_20_ms_and_hears_65(sample):
    """Position t is at sample 320 t; before attention it covers 320 t - 520 .. 320 t + 519."""
    config = replace(SIZES["tiny"], n_audio_state=6, n_audio_head=1, n_audio_layer=1)
    model = WhisperEncoder.from_formula(config, dtype=torch.float64)
    encoder = theirs(model)
    extractor = WhisperFeatureExtractor()
    assert encoder.config.max_source_positions == 1500
    assert 1500 * 320 == extractor.n_samples == whisper.audio.N_SAMPLES == 30 * 16_000
    assert whisper.audio.N_SAMPLES_PER_TOKEN == 320
    assert whisper.audio.TOKENS_PER_SECOND == 50

    # The maximum is in the loud beginning, so changes later on do not move the clamp.
    clip = 0.05 * Signal("noise", 480_000).array().astype(np.float64)
    clip[:8_000] *= 20

    def before_attention(audio):
        mel = torch.from_numpy(melfront.oracle.log_mel(audio, n_mels=80))
        return hidden_states(encoder, mel[None])[0][0]  # (T, S)

    states = before_attention(clip)
    for position in (700, 1499):
        # The window's first sample is 0, so sample -520 is covered but has no effect.
        for offset, heard in ((-520, False), (-519, True), (0, True), (519, True), (520, False)):
            n = 320 * position + offset
            if n >= len(clip):
                continue
            other = clip.copy()
            other[n] += 0.04
            changed = np.abs(before_attention(other) - states).max(axis=1) > 1e-10
            assert changed[position] == heard, (position, offset)
            assert changed.sum() <= 4  # 1040 samples, in steps of 320


@pytest.mark.parametrize("library", ["transformers", "openai"])
def test_the_second_convolution_has_the_stride(toy, library):
    encoder = toy[library]
    shapes = []
    hooks = [
        conv.register_forward_hook(lambda _module, _inputs, out: shapes.append(out.shape[-1]))
        for conv in (encoder.conv1, encoder.conv2)
    ]
    encoder(torch.from_numpy(features(TOY, batch=1)))
    for hook in hooks:
        hook.remove()
    assert shapes == [TOY.n_frames, TOY.n_frames // 2]
    assert (encoder.conv1.stride, encoder.conv2.stride) == ((1,), (2,))


def test_large_v3_takes_128_bins():
    with torch.device("meta"):
        encoders = {
            size: modeling_whisper.WhisperEncoder(WhisperConfig(**SIZES[size].to_hf()))
            for size in ("large-v2", "large-v3")
        }
    for size, right, wrong in (("large-v2", 80, 128), ("large-v3", 128, 80)):
        encoders[size](torch.empty(1, right, 3000, device="meta"))
        with pytest.raises(RuntimeError, match="channel"):
            encoders[size](torch.empty(1, wrong, 3000, device="meta"))


def test_the_mask_changes_nothing(full_length, sample):
    mel = torch.from_numpy(extract(sample))
    mask = torch.from_numpy(melfront.frame_mask(len(sample)))[None]
    with torch.inference_mode():
        without = full_length(mel).last_hidden_state
        for given in (mask, torch.zeros_like(mask)):
            assert full_length(mel, attention_mask=given).last_hidden_state.equal(without)


def test_padding_is_attended_to(full_length, sample):
    """Different padding changes all hidden states of the speech, from the first position on."""
    mel = torch.from_numpy(extract(sample))
    zeros = mel.clone()
    zeros[:, :, 812:] = 0  # as in openai-whisper's transcribe
    with torch.inference_mode():
        a, b = (full_length(x).last_hidden_state[0] for x in (mel, zeros))
    moved = (a - b).norm(dim=1) / a.norm(dim=1)  # (T,)
    assert moved[:400].min() > 1e-3  # rounding moves them by 1e-6
    # The hidden states of the padding are as large as those of the speech.
    assert 0.3 < a[406:].norm(dim=1).mean() / a[:405].norm(dim=1).mean() < 3


@pytest.mark.parametrize("library", ["transformers", "openai"])
def test_attention_is_not_causal(toy, library):
    mel = torch.from_numpy(features(TOY, batch=1))
    other = mel.clone()
    other[:, :, -1] += 1
    with torch.inference_mode():
        a, b = (toy[library](x)[0] for x in (mel, other))
    a, b = (x.reshape(TOY.n_audio_ctx, -1) for x in (a, b))
    moved = (a - b).norm(dim=1) / a.norm(dim=1)
    assert moved.min() > 1e-4, "the first position depends on the last frame"


def test_positions_are_not_learned():
    with torch.device("meta"):
        whole = WhisperModel(WhisperConfig(**SIZES["tiny"].to_hf()))
    assert not whole.encoder.embed_positions.weight.requires_grad
    assert whole.decoder.embed_positions.weight.requires_grad, "the decoder's are"
    encoder = modeling_whisper.WhisperEncoder(WhisperConfig(**SIZES["tiny"].to_hf()))
    table = encoder.embed_positions.weight.detach()
    assert torch.equal(table, whisper.model.sinusoids(1500, 384))
    assert "positional_embedding" not in dict(
        whisper.model.AudioEncoder(80, 1500, 384, 6, 0).named_parameters()
    )
    # Sines and cosines in float32: at the last positions, the angles are accurate to 1e-4.
    away = np.abs(table.numpy() - formula.sinusoids(1500, 384)).max()
    assert 2e-5 < away < 3e-4


def fine_tuned(encoder):
    """The loss after two steps of AdamW, and how far each weight has moved.

    In float64, because AdamW takes a full step even if a gradient is only rounding error.
    """
    encoder.double().train()
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    mel = torch.from_numpy(features(TOY, batch=2)).double()
    generator = torch.Generator().manual_seed(1)
    shape = (2, TOY.n_audio_ctx, TOY.n_audio_state)
    target = torch.randn(shape, generator=generator, dtype=torch.float64)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    for step in range(3):
        loss = torch.nn.functional.mse_loss(encoder(mel).last_hidden_state, target)
        if step < 2:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        now = encoder.named_parameters()
        return float(loss), {name: float((p - before[name]).abs().max()) for name, p in now}


def test_fine_tuning_moves_the_positions_in_transformers(tmp_path):
    """transformers freezes positions in a new model, but not in one that it loads."""
    fresh = WhisperModel(WhisperConfig(**TOY.to_hf()))
    assert not fresh.encoder.embed_positions.weight.requires_grad
    fresh.save_pretrained(tmp_path)
    loaded, frozen = (WhisperModel.from_pretrained(tmp_path).encoder for _ in range(2))
    assert loaded.embed_positions.weight.requires_grad
    frozen.embed_positions.requires_grad_(False)
    ours, thawed = (WhisperEncoder.from_pretrained(tmp_path) for _ in range(2))
    thawed.positions.requires_grad_(True)

    (a, moved), (b, still) = fine_tuned(loaded), fine_tuned(frozen)
    # A step of AdamW is about its learning rate, 1e-3.
    assert moved["embed_positions.weight"] > 1e-3
    assert still["embed_positions.weight"] == 0
    # Same sums in a different order, a difference of 1e-16 in float64; the loss is about 2.
    for encoder, expected in (ours, b), (thawed, a):
        loss, steps = fine_tuned(encoder)
        assert loss == pytest.approx(expected, rel=1e-9)
        assert (steps["positions"] > 0) == (encoder is thawed)
    assert abs(a - b) > 1e-5 * b


def test_trained_positions_are_the_formula_too(tiny_en):
    table = WhisperEncoder.from_pretrained(tiny_en).positions.detach().numpy()
    assert 2e-5 < np.abs(table - formula.sinusoids(1500, 384)).max() < 3e-4


def test_the_last_hidden_state_is_normed(toy):
    """hidden_states[-1] is not a block's output, and no other state is that of the last block."""
    encoder, blocks = toy["transformers"], []
    hooks = [
        layer.register_forward_hook(
            lambda _module, _inputs, out: blocks.append(out[0] if isinstance(out, tuple) else out)
        )
        for layer in encoder.layers
    ]
    with torch.inference_mode():
        out = encoder(torch.from_numpy(features(TOY, batch=1)), output_hidden_states=True)
        normed = encoder.layer_norm(blocks[-1])
    for hook in hooks:
        hook.remove()
    states = out.hidden_states
    assert len(states) == TOY.n_audio_layer + 1
    for state, block in zip(states[1:-1], blocks[:-1], strict=True):
        assert state.equal(block)
    assert states[-1].equal(out.last_hidden_state)
    assert states[-1].equal(normed)
    assert not any(torch.allclose(state, blocks[-1], rtol=1e-2) for state in states)


def test_a_shorter_clip_is_refused(toy):
    """There are always 1500 positions: features of any other length are refused."""
    short = torch.from_numpy(features(TOY, batch=1))[:, :, :-2]
    with pytest.raises(ValueError, match="mel input features to be of length 22, but found 20"):
        toy["transformers"](short)
    with pytest.raises(AssertionError, match="incorrect audio shape"):
        toy["openai"](short)


def test_whisper_encoder_from_pretrained_loads_nothing(tmp_path):
    """transformers' WhisperEncoder on a whole checkpoint gives random weights and no error."""
    whole = WhisperModel(WhisperConfig(**TOY.to_hf()))
    whole.save_pretrained(tmp_path)
    encoder, report = modeling_whisper.WhisperEncoder.from_pretrained(
        tmp_path, output_loading_info=True
    )
    names = set(encoder.state_dict())
    assert set(report["missing_keys"]) == names
    assert not encoder.conv1.weight.equal(whole.encoder.conv1.weight)
    ours = WhisperEncoder.from_pretrained(tmp_path)
    assert ours.conv1.weight.equal(whole.encoder.conv1.weight)
