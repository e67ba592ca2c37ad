"""What people believe of Whisper's front end and encoder, each tried on the libraries themselves.

One test for each row of README's table that no other test shows. A library is called here as its
users call it; `ours` is in it only where nobody else shows the stage.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper import feature_extraction_whisper, modeling_whisper

import melfront
from melfront.encoder import SIZES, WhisperEncoder, formula
from tests.encoder.peers import TOY, features, hidden_states, rms, theirs
from tests.signals import Signal

whisper = pytest.importorskip("whisper")
logging.getLogger("transformers").setLevel(logging.ERROR)

SILENCE = -1.5


def extract(audio, n_mels=80, sampling_rate=16_000, **options):
    """transformers' features of a clip, or of a list of clips: (B, M, F)."""
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    options = {"return_tensors": "np", **options}
    return extractor(audio, sampling_rate=sampling_rate, **options)["input_features"]


def extract_without_torch(audio, n_mels=80):
    """The same by transformers' NumPy path, whose FFT is in float64."""
    with patch.object(feature_extraction_whisper, "is_torch_available", lambda: False):
        return extract(audio, n_mels)


def openai_encoder(model):
    """openai-whisper's encoder with the weights of ours."""
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
    """A small encoder as transformers, and as openai-whisper, computes it."""
    # openai-whisper's MLP is four times as wide as its state, whatever one asks for.
    model = WhisperEncoder.from_formula(replace(TOY, n_audio_mlp=4 * TOY.n_audio_state))
    encoders = {"transformers": theirs(model), "openai": openai_encoder(model)}
    mel = torch.from_numpy(features(TOY, batch=1))
    with torch.inference_mode():
        a, b = (encoder(mel)[0] for encoder in encoders.values())
    # One encoder, to rounding. [0] of OpenAI's tensor is already the clip.
    assert torch.allclose(a[0], b, rtol=0, atol=1e-5 * float(b.abs().max()))
    return encoders


@pytest.fixture(scope="module")
def full_length():
    """transformers' encoder over all of the 30 s: whisper-tiny's dimensions, formula weights."""
    return theirs(WhisperEncoder.from_formula(SIZES["tiny"]))


# The seed experiment: what every tutorial begins with. README has it in our words, and its test
# runs it at large-v3's size.


def test_the_seed_experiment(sample):
    """129,600 samples: the shapes, by transformers alone, at large-v3's dimensions."""
    assert len(sample) / 16_000 == 8.1
    out = WhisperFeatureExtractor(feature_size=128)(
        sample, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True
    )
    assert out["input_features"].shape == (1, 128, 3000)
    assert out["attention_mask"].shape == (1, 3000)
    assert out["attention_mask"].sum() == 810
    mel, mask = melfront.log_mel(sample, return_mask=True)
    # As near as transformers is to itself: what the FFT errs in float32 is the CPU's choice.
    theirs, exact = out["input_features"][0].numpy(), extract_without_torch(sample, 128)[0]
    assert np.abs(mel - theirs).max() <= np.abs(theirs - exact).max() + 1e-6  # a few ulp
    assert np.array_equal(mask, out["attention_mask"][0])

    with torch.device("meta"):  # shapes without numbers: the weights would be 2.5 GB
        config = WhisperConfig(**SIZES["large-v3"].to_hf())
        encoder = modeling_whisper.WhisperEncoder(config).eval()
    states = encoder(out["input_features"].to("meta"), output_hidden_states=True).hidden_states
    assert [x.shape for x in states] == [(1, 1500, 1280)] * 33


# Frames


def test_16000_samples_are_100_frames():
    clip = Signal("noise", 16_000).array()
    assert extract(clip, padding="do_not_pad").shape == (1, 80, 100)
    with patch.object(feature_extraction_whisper, "is_torch_available", lambda: False):
        assert extract(clip, padding="do_not_pad").shape == (1, 80, 100)
    assert whisper.log_mel_spectrogram(clip).shape == (80, 100)
    # The counts that people expect: windows that fit in, once rounded down and once up; and
    # every frame of the centred transform, whose last one Whisper drops.
    assert (len(clip) - 400) // 160 + 1 == 98
    assert math.ceil((len(clip) - 400) / 160) + 1 == 99
    assert torch.tensor(clip).unfold(0, 400, 160).shape == (98, 400)
    window = torch.hann_window(400)
    assert torch.stft(torch.tensor(clip), 400, 160, window=window, return_complex=True).shape == (
        201,
        101,
    )


def test_the_first_frame_is_mirrored(sample):
    """It is not what the same sound gives after silence, or in the middle of a recording."""
    after_silence = np.concatenate([np.zeros(16_000, np.float32), sample])
    first = extract(sample)[0]
    later = extract(after_silence)[0, :, 100:]
    differ = np.abs(first[:, : later.shape[1]] - later).max(axis=0) > 1e-3
    # Frames 0 and 1 reach back before the clip, to samples -200 and -40; frame 2 starts at 120.
    assert differ[:2].all()
    assert not differ[2:811].any()


def test_padding_changes_the_last_frame(sample):
    """Alone, a clip's end is mirrored; padded to 30 s, zeros follow it."""
    alone = extract(sample, padding="do_not_pad")[0]
    padded = extract(sample)[0]
    assert alone.shape == (80, 810)
    differ = np.abs(alone - padded[:, :810]).max(axis=0) > 1e-3
    # Frame 809 hears samples 129,240 .. 129,639; the clip ends before 129,600.
    assert np.flatnonzero(differ).tolist() == [809]


def test_two_frames_outside_the_mask_hear_the_clip(sample):
    """Frames 810 and 811 reach back to samples 129,400 and 129,560 of 129,600."""
    out = WhisperFeatureExtractor()(sample, sampling_rate=16_000, return_attention_mask=True)
    mel, mask = np.asarray(out["input_features"])[0], np.asarray(out["attention_mask"])[0]
    assert np.flatnonzero(mask).tolist() == list(range(810))
    assert (mel[:, 810] != mel[:, 812]).any()
    assert (mel[:, 811] != mel[:, 812]).any()
    assert (mel[:, 812:] == mel[:, 812:813]).all()

    # With the last 200 samples silent, there is nothing in them to hear.
    quiet_end = sample.copy()
    quiet_end[129_400:] = 0
    mel = extract(quiet_end)[0]
    assert (mel[:, 810:] == mel[:, 812:813]).all()


# Features


def test_padding_is_not_zero(sample):
    """Nor is it -1.5: it is the loudest value less 2, and at least -1.5."""
    for n_mels in (80, 128):
        mel = extract(sample, n_mels)[0]
        padding = mel[:, 812:]
        assert (padding == padding[0, 0]).all()
        assert padding[0, 0] == pytest.approx(mel.max() - 2, abs=1e-6)  # 8 / 4; a few ulp
        assert -0.8 < padding[0, 0] < -0.6
    assert (extract(np.zeros(16_000, np.float32)) == SILENCE).all()
    # A clip whose loudest value is below 0.5 has no clamp: its padding is that of silence.
    faint = extract(1e-3 * sample)[0]
    assert faint.max() < 0.5
    assert (faint[:, 812:] == SILENCE).all()


def test_features_leave_minus_1_to_1():
    tone = np.sin(2 * np.pi * 440 * np.arange(480_000) / 16_000).astype(np.float32)
    assert extract(tone).max() > 1.5
    assert extract(np.zeros(16_000, np.float32)).min() == SILENCE


def test_transformers_has_two_answers(sample):
    """One where torch is installed, one where it is not; float64 is much nearer to the second.

    A float32 FFT errs by some 1e-7 of the loudest frequency, which is 1e-3 of one that is 80 dB
    below, and 2e-4 in its feature: no right FFT is further off. Rounding alone would be 1e-7.
    """
    with_torch = extract(sample, 128)[0]
    without = extract_without_torch(sample, 128)[0]
    truth = melfront.oracle.log_mel(sample)
    assert 1e-6 < np.abs(with_torch - without).max() < 2e-4
    assert rms(without - truth) < rms(with_torch - truth) / 3


def test_a_loud_neighbour_changes_a_clip_in_openai_whisper(sample):
    quiet = whisper.pad_or_trim(torch.tensor(1e-3 * sample))
    loud = whisper.pad_or_trim(torch.tensor(sample))
    alone = whisper.log_mel_spectrogram(quiet)
    batch = whisper.log_mel_spectrogram(torch.stack([quiet, loud]))
    assert (batch[0] - alone).abs().max() > 0.5
    # transformers takes each clip's own maximum.
    assert np.array_equal(extract([1e-3 * sample, sample])[0], extract(1e-3 * sample)[0])


def test_transcribe_pads_with_zeros_after_the_features(sample):
    """openai-whisper's two functions differ: `transcribe` is asked for what its encoder gets."""
    seen = []

    class Stop(Exception):
        pass

    class Model:
        device, is_multilingual, num_languages = torch.device("cpu"), False, 99
        dims = whisper.model.ModelDimensions(80, 1500, 384, 6, 4, 51864, 448, 384, 6, 4)

        def decode(self, segment, _options):
            seen.append(segment)
            raise Stop

    with pytest.raises(Stop):
        whisper.transcribe(Model(), sample, fp16=False, language="en")
    mel = seen[0].squeeze().numpy()
    assert mel.shape == (80, 3000)
    assert (mel[:, 810:] == 0).all()
    tail = whisper.log_mel_spectrogram(whisper.pad_or_trim(sample))[:, 812:]
    assert (tail < -0.6).all()


# What is put in


def test_int16_is_not_scaled(sample):
    pcm = np.round(sample * 32_767).astype(np.int16)
    shift = extract(pcm)[0] - extract(sample)[0]
    # Power is 32768^2 times as large: 2 log10(32768) / 4 higher, wherever nothing is clamped.
    assert np.median(shift) == pytest.approx(np.log10(32_768) / 2, abs=0.01)
    assert np.abs(melfront.log_mel(pcm, n_mels=80) - extract(sample)[0]).max() < 0.1


def test_stereo_becomes_two_clips(sample):
    stereo = np.stack([sample, sample[::-1]])
    assert extract(stereo).shape == (2, 80, 3000)


def test_nothing_is_resampled(sample):
    """Without sampling_rate any rate is taken for 16 kHz; with it, another one is refused."""
    half = sample[::2]  # as an 8 kHz file would be
    out = WhisperFeatureExtractor()(half, return_attention_mask=True)
    assert np.asarray(out["attention_mask"]).sum() == 405
    with pytest.raises(ValueError, match="sampling rate of 16000"):
        extract(half, sampling_rate=8_000)


def test_what_is_longer_than_30_s_is_cut():
    clip = Signal("noise", 480_000 + 16_000).array()
    assert np.array_equal(extract(clip), extract(clip[:480_000]))


# The encoder


def test_a_position_is_20_ms_and_hears_65(sample):
    """Position t stands at sample 320 t, and before attention hears 320 t - 520 .. 320 t + 519."""
    config = replace(SIZES["tiny"], n_audio_state=6, n_audio_head=1, n_audio_layer=1)
    model = WhisperEncoder.from_formula(config, dtype=torch.float64)
    encoder = theirs(model)
    extractor = WhisperFeatureExtractor()
    assert encoder.config.max_source_positions == 1500
    assert 1500 * 320 == extractor.n_samples == whisper.audio.N_SAMPLES == 30 * 16_000
    assert whisper.audio.N_SAMPLES_PER_TOKEN == 320
    assert whisper.audio.TOKENS_PER_SECOND == 50

    # A loud beginning holds the maximum, so that what is changed later moves no clamp.
    clip = 0.05 * Signal("noise", 480_000).array().astype(np.float64)
    clip[:8_000] *= 20

    def before_attention(audio):
        mel = torch.from_numpy(melfront.oracle.log_mel(audio, n_mels=80))
        return hidden_states(encoder, mel[None])[0][0]  # (T, S)

    states = before_attention(clip)
    for position in (700, 1499):
        # The window is 0 on the first of its 400 samples, so that -520 is heard in name only.
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
    """Other padding, other hidden states: of the speech too, from its first position on."""
    mel = torch.from_numpy(extract(sample))
    zeros = mel.clone()
    zeros[:, :, 812:] = 0  # as openai-whisper's transcribe has it
    with torch.inference_mode():
        a, b = (full_length(x).last_hidden_state[0] for x in (mel, zeros))
    moved = (a - b).norm(dim=1) / a.norm(dim=1)  # (T,)
    assert moved[:400].min() > 1e-3  # rounding moves them by 1e-6
    # And what comes out at the padding is as large as what comes out at the speech.
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
    assert moved.min() > 1e-4, "the first position knows of the last frame"


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
    # Sines and cosines, but in float32: of the last positions' angles that leaves 1e-4.
    away = np.abs(table.numpy() - formula.sinusoids(1500, 384)).max()
    assert 2e-5 < away < 3e-4


def fine_tuned(encoder):
    """Two steps of AdamW in float64: the loss after them, and how far each weight has moved.

    In float64, for AdamW makes a whole step even of a gradient that is nothing but rounding.
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
    """Frozen in a fresh model, trained in a loaded one: fine-tuned, it is not what ours is."""
    fresh = WhisperModel(WhisperConfig(**TOY.to_hf()))
    assert not fresh.encoder.embed_positions.weight.requires_grad
    fresh.save_pretrained(tmp_path)
    loaded, frozen = (WhisperModel.from_pretrained(tmp_path).encoder for _ in range(2))
    assert loaded.embed_positions.weight.requires_grad
    frozen.embed_positions.requires_grad_(False)
    ours, thawed = (WhisperEncoder.from_pretrained(tmp_path) for _ in range(2))
    thawed.positions.requires_grad_(True)

    (a, moved), (b, still) = fine_tuned(loaded), fine_tuned(frozen)
    # A step of AdamW is about as long as its learning rate, 1e-3.
    assert moved["embed_positions.weight"] > 1e-3
    assert still["embed_positions.weight"] == 0
    # The same sums in another order, which float64 keeps to 1e-16; the loss is about 2.
    for encoder, expected in (ours, b), (thawed, a):
        loss, steps = fine_tuned(encoder)
        assert loss == pytest.approx(expected, rel=1e-9)
        assert (steps["positions"] > 0) == (encoder is thawed)
    assert abs(a - b) > 1e-5 * b


def test_trained_positions_are_the_formula_too(tiny_en):
    table = WhisperEncoder.from_pretrained(tiny_en).positions.detach().numpy()
    assert 2e-5 < np.abs(table - formula.sinusoids(1500, 384)).max() < 3e-4


def test_the_last_hidden_state_is_normed(toy):
    """hidden_states[-1] is no block's output: the last block's is in none of them."""
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
    """1500 positions whatever the clip: features of its own length are an error."""
    short = torch.from_numpy(features(TOY, batch=1))[:, :, :-2]
    with pytest.raises(ValueError, match="mel input features to be of length 22, but found 20"):
        toy["transformers"](short)
    with pytest.raises(AssertionError, match="incorrect audio shape"):
        toy["openai"](short)


def test_whisper_encoder_from_pretrained_loads_nothing(tmp_path):
    """transformers' WhisperEncoder on a whole checkpoint: random weights, and no error."""
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
