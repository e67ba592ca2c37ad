"""Causes that a wrong tensor itself proves, and what is seen in the encoder's tensors."""

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import conv1d, gelu

import melfront
from melfront import parity, variants
from melfront.conventions import TRANSFORMERS
from melfront.encoder import EncoderConfig, WhisperEncoder
from melfront.parity.api import assert_parity
from melfront.parity.comparison import naming
from melfront.parity.diagnosis.match import Candidate
from melfront.parity.diagnosis.symptoms.certain import certain
from melfront.parity.diagnosis.symptoms.describe import symptoms
from melfront.parity.pipeline import Pipeline
from melfront.parity.resolve import of_signal
from melfront.parity.signals import SIGNALS, sample
from melfront.parity.stages import Stage

CONFIG = EncoderConfig(
    n_mels=11, n_audio_ctx=60, n_audio_state=96, n_audio_head=6, n_audio_layer=2, n_audio_mlp=131
)
MODEL = WhisperEncoder.from_formula(CONFIG)
CLIP = sample()[40_001 : 40_001 + 19_000]
PIPELINE = Pipeline(CLIP, MODEL, n_mels=11, pad_to=1.2)
TRUTH = parity.trace(CLIP, MODEL)


def compare(tensors, **options):
    return parity.compare(tensors, audio=CLIP, model=MODEL, **options)


def names(report):
    return [named.name for named in report.diagnosis.named] if report.diagnosis else []


def look(stage, change):
    """The symptoms of the truth with one thing changed, without the catalogue."""
    stage, values = Stage(stage), TRUTH[stage].astype(np.float32)
    values = change(values.copy())
    unit = PIPELINE.floors({stage: TRUTH[stage]}, "float32")[stage]
    return symptoms(Candidate(PIPELINE, stage, values, TRUTH[stage], unit, "float32", 1e9, None))


# --- causes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["ln_post", "block.1.mlp_ln"])
def test_layer_norm_that_overflows(stage):
    """1 / sqrt(inf) is 0, which leaves the bias."""
    name = stage if stage == "ln_post" else "blocks.1.mlp_ln"
    mine = torch.from_numpy(TRUTH[stage]).half()
    mine[[3, *range(40, 44)]] = MODEL.state_dict()[f"{name}.bias"].half()
    report = compare({stage: mine})
    assert names(report) == ["layer norm overflows in float16"]
    assert "5 of 60 positions are bad: 3, 40-43" in str(report)
    mine[3, 5] += 0.1
    assert "layer norm overflows in float16" not in names(compare({stage: mine}))


def test_clips_of_a_batch_swapped():
    clips = [CLIP, 0.1 * CLIP[::-1], np.roll(CLIP, 5_000)]
    pipeline, stage = Pipeline(clips, n_mels=80, pad_to=1.2), Stage("mel")
    truth = pipeline.front_end_truth[stage]
    right = truth.astype(np.float32)
    report = parity.compare({stage: right[[2, 0, 1]]}, audio=clips, pad_to=1.2)
    assert names(report) == ["clips of the batch swapped"]
    unit = pipeline.floors({stage: truth}, "float32")[stage]
    twice = right[[0, 0, 1]]  # the third is lost: no order of the clips
    assert certain(Candidate(pipeline, stage, twice, truth, unit, "float32", 1e9, None)) == []


@pytest.fixture(scope="module")
def never_loaded():
    """The hidden states of transformers' encoder of this shape, as its constructor leaves it."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder as Theirs

    torch.manual_seed(3)
    theirs = Theirs(
        WhisperConfig(
            num_mel_bins=11,
            max_source_positions=60,
            d_model=96,
            encoder_attention_heads=6,
            encoder_layers=2,
            encoder_ffn_dim=131,
        )
    ).eval()
    mel = torch.from_numpy(TRUTH["features"]).float()[None]
    with torch.no_grad():
        states = theirs(mel, output_hidden_states=True).hidden_states
    return {f"hidden_states.{i}": state for i, state in enumerate(states)}


@pytest.mark.parametrize("which", ["all", "the last"])
def test_random_weights(never_loaded, which):
    last = {"last_hidden_state": never_loaded["hidden_states.2"]}
    report = compare(never_loaded if which == "all" else last)
    assert names(report) == ["other or random weights"]
    assert "from_pretrained` loads nothing" in report.headline()
    assert json.loads(report.to_json())["mistakes"][0]["residual"] is None


def test_other_weights():
    mine = {"features": TRUTH["features"].astype("f4")}
    mine["conv1"] = np.random.default_rng(5).normal(size=TRUTH["conv1"].shape).astype("f4")
    report = compare(mine)
    assert names(report) == []  # a mistake in the stem may leave as little
    assert "nothing in common with the truth: they are made with other or random" in str(report)


def test_other_clip_is_not_taken_for_other_weights():
    other = parity.trace(CLIP[::-1].copy(), MODEL)["ln_post"].astype("f4")
    report = compare({"ln_post": other})
    assert names(report) == []
    assert "nothing in common" not in str(report)


# --- what is seen ---------------------------------------------------------------------------------


def changed(where, values):
    def change(tensor):
        tensor[where] = values(tensor) if callable(values) else values
        return tensor

    return change


HEAD_2, HEAD_4 = np.s_[:, 32:48], np.s_[:, 64:80]
EXACT = {
    "a head lost": (
        "block.0.attn.context",
        changed(HEAD_2, 0),
        "1 of 6 heads is bad: 2; every value in head 2 is 0: never written, or overwritten",
    ),
    "a head doubled": (
        "block.0.attn.context",
        changed(HEAD_2, lambda x: x[HEAD_4]),
        "head 2 is the truth's head 4",
    ),
    "a head of the other sign": (
        "block.0.attn.v",
        changed(HEAD_2, lambda x: -x[HEAD_2]),
        "1 of 6 heads is bad: 2; there every value has the other sign",
    ),
    "half of the channels": (
        "block.0.mlp.fc1",
        changed(np.s_[:, 64:], 0),
        "67 of 131 channels are bad: 64-130: the last 67",
    ),
    "positions one late": (
        "ln_post",
        lambda x: np.roll(x, 1, 0),
        "position i is the truth's position i - 1: 1 position late",
    ),
    "channels interleaved": (
        "ln_post",
        lambda x: x.reshape(60, 2, 48).swapaxes(1, 2).reshape(60, 96),
        "the channels are in another order, as if (2, 48) were transposed",
    ),
    "a bias twice": (
        "block.1.mlp.fc2",
        lambda x: x + MODEL.state_dict()["blocks.1.mlp.fc2.bias"].numpy(),
        "blocks.1.mlp.fc2.bias is added once more",
    ),
    "a factor": ("block.1.attn.q", lambda x: x / 8, "every value is 0.125 (1/8) times the truth"),
}


@pytest.mark.parametrize("broken", EXACT)
def test_what_explains_all_of_the_error(broken):
    stage, change, words = EXACT[broken]
    assert words in look(stage, change).exact


def test_convolutions_chunk_by_chunk():
    """Every 15th position, where the chunks of 30 frames meet."""
    mel = torch.from_numpy(TRUTH["features"]).float()
    w, parts = MODEL.state_dict(), []
    for part in mel.split(30, dim=1):
        x = gelu(conv1d(part[None], w["conv1.weight"], w["conv1.bias"], padding=1))
        parts.append(gelu(conv1d(x, w["conv2.weight"], w["conv2.bias"], stride=2, padding=1))[0])
    report = compare({"features": mel, "gelu2": torch.cat(parts, 1)})
    assert "6 of 60 positions are bad: 14-15, 29-30, 44-45" in str(report)


def attention(keep):
    """The weights where each query sees some of the keys: a (60, 60) mask."""
    scores = np.where(keep, TRUTH["block.0.attn.scores"], -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_keys_left_out():
    of_block = np.arange(60) // 16
    found = look("block.0.attn.weights", lambda _: attention(np.arange(60) < 48).astype("f4"))
    assert found.seen == ("no query sees keys 48-59: their weights are 0",)
    windows = attention(of_block[:, None] == of_block)
    found = look("block.0.attn.weights", lambda _: windows.astype("f4"))
    (line,) = found.seen
    assert "its own block alone, 0-15, 16-31, 32-47, ...: attention in windows" in line
    causal = attention(np.tri(60, dtype=bool))
    assert "sees" not in str(look("block.0.attn.weights", lambda _: causal.astype("f4")))


def test_places_of_nan():
    found = look("ln_post", changed(np.s_[48:], np.nan))
    assert found.seen == ("NaN or infinity in 12 of 60 positions: 48-59",)


@pytest.mark.parametrize("stage", ["gelu1", "block.0.attn.scores", "block.1.mlp.fc1", "ln_post"])
def test_nothing_is_said_of_noise(stage):
    noise = np.random.default_rng(3).normal(0, 1e-3, TRUTH[stage].shape).astype("f4")
    assert look(stage, lambda x: x * (1 + noise)).exact == ""


def test_filters_that_sum_to_1_are_no_pair_of_mistakes():
    speech = SIGNALS["speech"].make()
    pipeline = of_signal("speech", 80)
    bank = variants.filters(TRANSFORMERS, 80)
    mel = bank / bank.sum(1, keepdims=True) @ pipeline.front_end_truth["power"].T
    log = np.log10(np.maximum(mel, 1e-10))
    features = (np.maximum(log, log.max() - 8) + 4) / 4
    report = parity.compare({"features": features.astype("f4")}, audio=speech, pad_to=None)
    assert "zero mean" not in str(report)


# --- a PASS that could not have failed ------------------------------------------------------------


def passed(clip, **options):
    right = melfront.log_mel(clip, n_mels=80, **options)
    return parity.compare({"features": right}, audio=clip, **options)


def test_a_pass_says_which_mistakes_it_cannot_see():
    quiet_ends = np.pad(CLIP, 400)
    report = passed(quiet_ends, pad_to=2.0)
    assert report.ok
    blind = report.blind
    assert {"zero padding", "edge padding", "symmetric padding"} <= set(blind.mistakes)
    assert "zero padding" in str(report)
    assert any("--audio signal:" in line for line in str(report).splitlines())
    shown = {name for names in blind.shown_by.values() for name in names}
    assert shown == set(blind.mistakes)
    assert json.loads(report.to_json())["blind"]["of"] == blind.of
    assert "zero padding" not in passed(CLIP, pad_to=2.0).blind.mistakes


def test_it_is_not_looked_for_until_it_is_asked_for(monkeypatch):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr(naming, "blind", never)
    features = melfront.log_mel(CLIP, n_mels=80)
    assert_parity(features, "features", audio=CLIP, n_mels=80)
    report = parity.compare({"features": features - 1}, audio=CLIP)
    assert report.blind is None
