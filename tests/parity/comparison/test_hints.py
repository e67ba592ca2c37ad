"""Hints in the report: how a tensor was read, what it may be instead, where to look."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

import melfront
from melfront import encoder, parity, variants
from melfront.conventions import TRANSFORMERS, Convention
from melfront.parity import mistakes
from melfront.parity.diagnosis.front_end import both
from melfront.parity.pipeline import load_model
from melfront.parity.signals import SAMPLE, SIGNALS
from melfront.reference_data import make
from tests.parity.ports import ours_numpy

PADDED = SIGNALS["padded"]  # a clip of 0.3 s in half a second
AUDIO, PAD_TO = PADDED.make(), PADDED.pad_to
TRUTH = variants.trace(AUDIO, n_mels=80, pad_to=PAD_TO)


def compare(**stages):
    return parity.compare(stages, audio=AUDIO, n_mels=80, pad_to=PAD_TO)


def features(convention, **options):
    options = {"n_mels": 80, "pad_to": PAD_TO, **options}
    return variants.log_mel(AUDIO, convention=convention, **options).astype(np.float32)


def names(report):
    return [named.name for named in report.diagnosis.named]


# --- `mel`, a name with two meanings --------------------------------------------------------------


def test_mel_alone_is_features_or_mel_power():
    assert [stage.name for stage in compare(mel=TRUTH["features"]).stages] == ["features"]
    report = compare(mel=TRUTH["mel"])
    assert [stage.name for stage in report.stages] == ["mel"]
    assert report.ok


def test_wrong_mel_power_and_positive_features():
    window = variants.trace(
        AUDIO, n_mels=80, pad_to=PAD_TO, convention=mistakes.find("no window").convention()
    )
    report = compare(mel=window["mel"])
    assert report.first_wrong.name == "mel"
    assert names(report) == ["no window"]

    loud = features(mistakes.find("unscaled int16").convention())
    assert loud.min() > 0
    report = compare(mel=loud)
    assert report.first_wrong.name == "features"
    assert names(report) == ["unscaled int16"]


def test_mel_with_a_reference():
    truth = {"features": TRUTH["features"].astype("f4"), "mel": TRUTH["mel"].astype("f4")}
    report = parity.compare({"mel": TRUTH["mel"]}, truth, audio=AUDIO, n_mels=80, pad_to=PAD_TO)
    assert report.stages[0].name == "mel"
    assert report.ok


# --- missing frames -------------------------------------------------------------------------------


def uncentred(window, dropped):
    """Like torch.stft(center=False): only the frames that fit into the signal."""
    n = round(PAD_TO * 16_000)
    x = np.pad(AUDIO, (0, n - len(AUDIO)))
    frames = np.lib.stride_tricks.sliding_window_view(x, 400)[::160]
    frames = frames[: len(frames) - dropped] * window
    mel = variants.mel(np.abs(np.fft.rfft(frames)) ** 2, TRANSFORMERS, 80)
    log = np.log10(np.maximum(mel, 1e-10))
    return ((np.maximum(log, log.max() - 8) + 4) / 4).astype(np.float32)


@pytest.mark.parametrize("dropped", [0, 1])
def test_uncentred_frames(dropped):
    mine = uncentred(variants.window(TRANSFORMERS), dropped)
    assert mine.shape == (80, 48 - dropped)
    report = compare(features=mine)
    assert report.first_wrong.verdict == "SHAPE"
    assert names(report) == ["no centring"], report
    assert "--pad-to" not in str(report)


def test_uncentred_frames_and_another_mistake():
    report = compare(features=uncentred(np.hanning(400), 0))
    assert names(report) == ["no centring + symmetric window"], report


def test_pad_to_is_not_suggested_with_a_reference():
    """A reference has a fixed length, which --pad-to does not change."""
    path = make.HERE / "frontend" / "sample.80.safetensors"
    report = parity.compare({"features": np.zeros((80, 3000), np.float32)}, path)
    (stage,) = report.stages
    assert stage.verdict == "SHAPE"
    assert "(80, 816)" in str(report)
    assert "leave it out" in str(report)
    assert "--pad-to" not in str(report)


@pytest.mark.parametrize("name", ["padded", "late"])  # the second fills its window
def test_missing_frames_only(name):
    clip = SIGNALS[name].make()
    seconds = SIGNALS[name].pad_to or len(clip) / 16_000
    mine = ours_numpy(clip, round(seconds * 16_000), 80)[:, :-2]
    report = parity.compare({"features": mine}, audio=clip, n_mels=80, pad_to=seconds)
    assert report.first_wrong.verdict == "SHAPE"
    assert names(report) == []
    assert ("nothing but the shape is wrong" in report.headline()) == (name == "padded")


def test_reference_of_another_shape_is_not_a_mistake():
    """Correct features of 80 bins, compared with a reference of 128."""
    reference = {"features": ours_numpy(AUDIO, 8_000, 128)}
    mine = {"features": ours_numpy(AUDIO, 8_000, 80)}
    report = parity.compare(mine, reference, audio=AUDIO, pad_to=PAD_TO)
    assert report.first_wrong.verdict == "SHAPE"
    assert names(report) == []


def test_wrong_reference():
    reference = {"features": features(mistakes.find("symmetric window").convention())}
    report = parity.compare(
        {"features": ours_numpy(AUDIO, 8_000, 80)}, reference, audio=AUDIO, pad_to=PAD_TO
    )
    assert report.first_wrong.verdict == "WRONG"
    assert names(report) == []
    assert "this is what float64 gives for this clip; the reference differs" in report.headline()


def test_hint_for_another_hop_or_length():
    mine = np.zeros((80, 40), dtype=np.float32)
    assert "pass --pad-to 0.4 if that is meant; a hop of 200 samples gives as many" in str(
        compare(features=mine)
    )
    assert "hop" not in str(compare(features=mine[:, :37]))


def test_hint_for_another_number_of_bins(no_search):
    mine = ours_numpy(AUDIO, 8_000, 128)
    text = str(compare(features=mine))
    assert "expected (80, 50); for 128 bins pass --n-mels 128" in text


# --- several candidates ---------------------------------------------------------------------------


def test_indistinguishable_pairs_are_named_together():
    pair = (mistakes.find("zero padding"), mistakes.find("no frame dropped"))
    report = compare(features=features(both(TRANSFORMERS, pair)))
    assert set(names(report)) == {
        "zero padding + no frame dropped",
        "zero padding + a hop of zeros added",
    }
    text = report.headline()
    assert "two mistakes at once" in text
    assert " - or " in text
    assert str(report).count("seen in: librosa.stft defaults") == 1


# --- no candidate ---------------------------------------------------------------------------------

ASK = "were these tensors made from this clip, and with these options?"


def test_asks_about_the_clip_only_if_it_may_differ(no_search):
    other = ours_numpy(SIGNALS["noise"].make(), 8_000, 80)
    assert ASK in compare(features=other).headline()
    rng = np.random.default_rng(3)
    near = TRUTH["features"] * (1 + 1e-3 * rng.normal(size=TRUTH["features"].shape))
    assert ASK not in compare(features=near).headline()
    # The previous stage passes, so the tensors are from this clip.
    assert ASK not in compare(log=TRUTH["log"], features=other).headline()


def test_nearest_is_named_if_it_explains_most_of_the_error():
    three = Convention(dynamic_range=7.95, mel_scale="htk", log_base=np.e)
    report = compare(features=features(three))
    assert report.diagnosis.nearest.name == "HTK mel scale + natural logarithm"
    assert "the nearest, 'HTK mel scale + natural logarithm', leaves" in report.headline()
    assert json.loads(report.to_json())["nearest"]["name"] == report.diagnosis.nearest.name


@pytest.mark.parametrize("value", [0.0, -1.5])
def test_constant_tensor_is_reported(value):
    report = compare(features=np.full_like(TRUTH["features"], value, dtype=np.float32))
    assert f"(every value is {value:g})" in str(report)
    assert report.diagnosis.nearest is None


# --- reshaped, bias added to k --------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["features", "power"])
def test_reshaped_instead_of_transposed(stage):
    right = TRUTH[stage].astype(np.float32)
    for mine in (right.T.reshape(right.shape), right.reshape(right.T.shape)):
        report = compare(**{stage: mine})
        assert names(report) == ["reshaped, not transposed"], report
        assert report.first_wrong.name == stage
    # The same for a batch.
    clips = [AUDIO, AUDIO[::-1].copy()]
    both_clips = melfront.log_mel(clips, n_mels=80, pad_to=PAD_TO)
    mine = both_clips.swapaxes(1, 2).reshape(both_clips.shape)
    report = parity.compare({"features": mine}, audio=clips, n_mels=80, pad_to=PAD_TO)
    assert names(report) == ["reshaped, not transposed"], report


def test_bias_on_k():
    model, clip = load_model("formula:toy"), SIGNALS["toy"].make()
    truth = parity.trace(clip, model)
    stages = [f"block.0.attn.{name}" for name in ("q", "k", "v", "weights")]
    mine = {stage: truth[stage].astype(np.float32) for stage in stages}
    bias = np.random.default_rng(3).normal(size=mine[stages[1]].shape[-1]).astype(np.float32)
    mine[stages[1]] = mine[stages[1]] + bias
    report = parity.compare(mine, audio=clip, model=model)
    assert report.first_wrong.name == "block.0.attn.k"
    assert names(report) == ["bias added to k"], report
    # It is not named for another stage.
    mine[stages[1]] -= bias
    mine[stages[2]] = mine[stages[2]] + bias
    assert "bias added to k" not in names(parity.compare(mine, audio=clip, model=model))


@pytest.mark.slow
def test_no_final_norm_on_trained_weights(tiny_en):
    """Without the norm, the values are five times as large and their noise ten times."""
    model = encoder.WhisperEncoder.from_pretrained(tiny_en)
    mel = melfront.log_mel(melfront.load_audio(SAMPLE), n_mels=80)
    mine = encoder.trace(model, mel)["block.3.mlp_residual"]
    assert names(parity.compare({"last_hidden_state": mine}, model=model)) == ["no final norm"]


# --- mistakes in reading the file -----------------------------------------------------------------


@pytest.fixture(scope="module")
def stereo(tmp_path_factory):
    """Half a second at 44.1 kHz with two different channels."""
    path = tmp_path_factory.mktemp("clips") / "stereo.wav"
    left = melfront.audio.resample(SIGNALS["speech"].make(), 8_000)[:22_050]
    samples = np.stack([left, 0.3 * left[::-1]], axis=1)
    soundfile.write(path, samples, 44_100, subtype="FLOAT")
    return path, samples


@pytest.mark.parametrize("pad_to", [3.0, None])
@pytest.mark.parametrize("name", ["not resampled", "channels interleaved", "one channel"])
def test_misread_file(stereo, name, pad_to):
    path, samples = stereo
    clip = {
        "not resampled": samples.mean(axis=1),
        "channels interleaved": samples.reshape(-1),
        "one channel": melfront.audio.resample(samples[:, 0].copy(), 44_100),
    }[name]
    mine = melfront.log_mel(clip, n_mels=80, pad_to=pad_to)
    report = parity.compare({"log_mel": mine}, audio=path, n_mels=80, pad_to=pad_to)
    assert names(report) == [name], report
    # The same for an earlier stage.
    power = variants.trace(clip, n_mels=80, pad_to=pad_to)["power"]
    report = parity.compare({"power": power}, audio=path, n_mels=80, pad_to=pad_to)
    assert names(report) == [name], report


def test_mono_file_at_16_khz_cannot_be_misread(tmp_path):
    path = tmp_path / "mono.wav"
    soundfile.write(path, AUDIO, 16_000, subtype="FLOAT")
    mine = {"log_mel": ours_numpy(AUDIO[::-1], 8_000, 80)}
    assert names(parity.compare(mine, audio=path, n_mels=80, pad_to=PAD_TO)) == []
