"""Tensors of another length: parts of a stage, positions pooled, fewer positions, windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import melfront
from melfront import encoder, parity, variants
from melfront.conventions import TRANSFORMERS
from melfront.encoder import EncoderConfig, WhisperEncoder
from melfront.parity import mistakes
from melfront.parity.diagnosis.front_end import both
from melfront.parity.pipeline import shorter

AUDIO = melfront.load_audio("sample")[:32_000]  # of speech
SECONDS = 3.0
POSITIONS = 150
# A small encoder that hears three seconds.
CONFIG = EncoderConfig(
    n_mels=80,
    n_audio_ctx=POSITIONS,
    n_audio_state=48,
    n_audio_head=3,
    n_audio_layer=2,
    n_audio_mlp=101,
)
MODEL = WhisperEncoder.from_formula(CONFIG)
MEL = melfront.log_mel(AUDIO, n_mels=80, pad_to=SECONDS)


def states(model=MODEL, mel=MEL, **ops):
    with encoder.ops.using(**ops):
        stages = encoder.trace(model, torch.from_numpy(np.ascontiguousarray(mel)))
    return {name: tensor.squeeze(0).numpy() for name, tensor in stages.items()}


STATES = states()
LAST = STATES["ln_post"]


def features(mine, **options):
    return parity.compare({"log_mel": mine}, n_mels=80, audio=AUDIO, pad_to=SECONDS, **options)


def hidden(**stages):
    options = {"audio": AUDIO, "model": MODEL}
    return parity.compare({name.replace("_", "."): x for name, x in stages.items()}, **options)


def last(mine, **options):
    return parity.compare({"ln_post": mine}, audio=AUDIO, model=MODEL, **options)


def names(report):
    return [named.name for named in report.diagnosis.named]


# --- parts of a stage -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 40])
def test_the_first_frames(no_search, n):
    for mine in (MEL[:, :n], MEL[:, :n].T, MEL[None, :, :n]):
        report = features(mine)
        assert report.ok, report
        assert f"the first {n} of 300 frames are given" in report.headline()
    wrong = MEL[:, :n].copy()
    wrong[3, 0] += 0.01
    assert not features(wrong).ok


@pytest.mark.parametrize(
    "pair",
    [
        ["symmetric window"],
        ["natural logarithm"],
        ["first frame dropped"],
        ["symmetric window", "HTK mel scale"],
    ],
)
def test_mistakes_in_the_first_frames(pair):
    entries = [mistakes.find(name) for name in pair]
    convention = entries[0].convention() if len(entries) == 1 else both(TRANSFORMERS, (*entries,))
    mine = variants.log_mel(AUDIO, n_mels=80, convention=convention, pad_to=SECONDS)
    report = features(mine[:, :60].astype(np.float32))
    assert names(report) == [" + ".join(pair)], report


def test_other_parts_of_the_features():
    assert "frames 120 to 199 of 300 are given" in features(MEL[:, 120:200]).headline()
    assert "one in 2 of 300 frames is given, from frame 1" in features(MEL[:, 1::2]).headline()


def test_of_a_reference():
    report = parity.compare({"log_mel": MEL[:, :50]}, {"log_mel": MEL})
    assert report.ok, report
    assert "the first 50 of 300 frames are given" in str(report)


def test_parts_of_several_lengths():
    scores = "block.0.attn.scores"
    mine = {
        "conv1": STATES["conv1"][:, :31],
        "positions": STATES["positions"][:20],
        scores: STATES[scores][:, :20],
        "block.1.attn.weights": STATES["block.1.attn.weights"][:, :23, :23],
        "block.1.mlp_residual": STATES["block.1.mlp_residual"],
        "last_hidden_state": LAST[:1],
    }
    report = parity.compare(mine, audio=AUDIO, model=MODEL)
    assert report.ok, report
    assert [s.given.split(" of ")[0] for s in report.stages] == [
        "the first 31",
        "the first 20",
        "the first 20",
        "the first 23",
        "",
        "the first 1",
    ]


def test_a_mistake_in_the_first_positions():
    tanh = mistakes.find("tanh GELU")
    report = last(states(**tanh.ops)["ln_post"][:30])
    assert report.first_wrong.given == "the first 30 of 150 positions are given"
    assert names(report) == ["tanh GELU"], report


@pytest.mark.parametrize(
    ("mine", "words"),
    [
        (LAST[50:90], "positions 50 to 89 of 150 are given"),
        (LAST[::2], "one in 2 of 150 positions is given, from position 0"),
        (LAST[2::5], "one in 5 of 150 positions is given, from position 2"),
        (LAST.reshape(75, 2, 48).mean(1), "75 positions: averaged in pairs"),
        (LAST.mean(0), "averaged over all 150 positions"),
        (LAST.mean(0)[None], "averaged over all 150 positions"),
        (LAST[:100].mean(0), "averaged over the 100 positions that hold audio"),
        (LAST.reshape(50, 3 * 48), "positions are stacked, unstacked here"),
    ],
)
def test_other_parts_of_the_hidden_states(mine, words):
    report = last(mine)
    assert report.ok, report
    assert report.headline().endswith(f"; {words}")
    broken = mine.copy()
    broken[..., 3] = np.nan
    assert last(broken).first_wrong.given == words


def pooled(model, x):
    """As Qwen2-Audio does: averaged in pairs, then normed."""
    with torch.no_grad():
        x = torch.nn.functional.avg_pool1d(torch.from_numpy(x).T[None], 2, 2)[0].T
        return model.ln_post(x).numpy()


def test_pooled_before_the_final_norm():
    report = last(pooled(MODEL, STATES["block.1.mlp_residual"]))
    assert report.ok, report
    words = "75 positions: averaged in pairs before the final norm, as Qwen2-Audio does"
    assert words in report.headline()
    tanh = mistakes.find("tanh GELU")
    report = last(pooled(MODEL, states(**tanh.ops)["block.1.mlp_residual"]))
    assert report.first_wrong.given == words
    assert names(report) == ["tanh GELU"], report


def test_an_encoder_tensor_of_no_known_shape_is_judged_at_once(monkeypatch):
    def fail(*_):
        raise AssertionError("the truth was computed")

    monkeypatch.setattr("melfront.parity.pipeline.Pipeline.encoder_truth", fail)
    for mine in (LAST[:, :-1], LAST[:-1], np.zeros((90, 48), np.float32)):
        report = last(mine)
        assert report.first_wrong.verdict == "SHAPE"
        assert f"shape {mine.shape}, expected (150, 48)" in str(report)
        assert report.headline().endswith("not diagnosed: no known mistake gives this shape")


def test_forced_takes_whole_stages():
    with pytest.raises(parity.ParityError, match="leave --forced out"):
        features(MEL[:, :50], forced=True)


# --- fewer positions ------------------------------------------------------------------------------

FEWER = "100 of its 150 positions, which is not what transformers computes"


@pytest.mark.parametrize("pad_to", ["default", 2.0])
def test_fewer_positions(pad_to):
    mel = melfront.log_mel(AUDIO, n_mels=80, pad_to=2.0)
    mine = states(shorter(MODEL, 100), mel)
    for given in (mine, {"last_hidden_state": mine["ln_post"]}):
        report = parity.compare(given, audio=AUDIO, model=MODEL, pad_to=pad_to)
        assert report.ok, report
        assert FEWER in str(report)
    report = parity.compare({"ln_post": LAST[:100]}, audio=AUDIO, model=MODEL)
    assert report.ok
    assert "the first 100 of 150 positions are given" in str(report)


def test_features_of_the_whole_window_and_fewer_positions():
    """As whisper.cpp's audio_ctx: the maximum is that of three seconds."""
    loud = np.concatenate([0.1 * AUDIO, AUDIO[:16_000]])
    mel = melfront.log_mel(loud, n_mels=80, pad_to=SECONDS)
    mine = states(shorter(MODEL, 100), mel[:, :200])["ln_post"]
    report = parity.compare({"log_mel": mel, "ln_post": mine}, audio=loud, model=MODEL)
    assert report.ok, report
    assert FEWER in str(report)


def test_a_mistake_with_fewer_positions():
    tanh = mistakes.find("tanh GELU")
    mel = melfront.log_mel(AUDIO, n_mels=80, pad_to=2.0)
    mine = states(shorter(MODEL, 100), mel, **tanh.ops)["ln_post"]
    for pad_to in ("default", 2.0):
        report = parity.compare({"ln_post": mine}, audio=AUDIO, model=MODEL, pad_to=pad_to)
        assert names(report) == ["tanh GELU"], report


@pytest.mark.parametrize(("pad_to", "hint"), [(4.0, "--pad-to 3"), (2.01, "--pad-to 2")])
def test_lengths_that_the_encoder_does_not_take(pad_to, hint):
    with pytest.raises(parity.ParityError, match=hint):
        last(LAST, pad_to=pad_to)


# --- windows and batches --------------------------------------------------------------------------

LONG = np.tile(AUDIO, 4)[:130_000]  # two windows of three seconds, and a part of a third
WINDOWS = np.stack(
    [melfront.log_mel(part, n_mels=80, pad_to=SECONDS) for part in melfront.chunks(LONG, SECONDS)]
)


def test_every_window_of_a_long_clip():
    end_to_end = np.concatenate(list(WINDOWS), axis=1)  # (M, 3 F)
    for mine in (WINDOWS, end_to_end, WINDOWS.reshape(-1, 300)):
        report = parity.compare({"log_mel": mine}, audio=LONG, n_mels=80, pad_to=SECONDS)
        assert report.ok, report
        assert "its 3 windows of 3 s" in str(report)
    with torch.no_grad():
        mine = MODEL(torch.from_numpy(WINDOWS)).last_hidden_state
    for given in (mine, mine.flatten(0, 1)):
        report = parity.compare({"ln_post": given}, audio=LONG, model=MODEL)
        assert report.ok, report
        assert "its 3 windows of 3 s" in str(report)


def test_a_mistake_in_the_last_window():
    last_one = LONG[2 * 48_000 :]
    convention = mistakes.find("symmetric window").convention()
    wrong = variants.log_mel(last_one, n_mels=80, convention=convention, pad_to=SECONDS)
    mine = np.stack([*WINDOWS[:2], wrong.astype(np.float32)])
    report = parity.compare({"log_mel": mine}, audio=LONG, n_mels=80, pad_to=SECONDS)
    assert names(report) == ["symmetric window"], report
    assert report.first_wrong.worst.startswith("window 2, ")


def test_a_batch_that_was_flattened():
    clips = [AUDIO, AUDIO[::-1].copy()]
    mel = melfront.log_mel(clips, n_mels=80, pad_to=SECONDS)
    with torch.no_grad():
        mine = MODEL(torch.from_numpy(mel)).last_hidden_state.flatten(0, 1)
    report = parity.compare(
        {"log_mel": mel.reshape(160, 300), "ln_post": mine}, audio=clips, model=MODEL
    )
    assert report.ok, report
