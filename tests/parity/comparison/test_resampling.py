"""A clip that is not at 16 kHz: another good resampler is not wrong, and a mistake still is."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from scipy import signal

import melfront
from melfront import parity, variants
from melfront.encoder import EncoderConfig, WhisperEncoder
from melfront.parity import mistakes

soxr = pytest.importorskip("soxr")

SPEECH = melfront.load_audio("sample")[20_000:36_000]
RATES = [22_050, pytest.param(48_000, marks=pytest.mark.slow)]


def polyphase(x, rate):
    return signal.resample_poly(x, 16_000, rate)


def fourier(x, rate):
    return signal.resample(x, -(-len(x) * 16_000 // rate))


def quick(x, rate):
    return soxr.resample(x, rate, 16_000, quality="LQ")


def ffmpeg(x, rate):
    av = pytest.importorskip("av")
    frame = av.AudioFrame.from_ndarray(x[None], format="flt", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=16_000)
    frames = resampler.resample(frame) + resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


@pytest.fixture(params=RATES)
def clip(tmp_path, request):
    """A file, its samples and its rate."""
    samples = soxr.resample(SPEECH, 16_000, request.param)
    soundfile.write(tmp_path / "my clip.wav", samples, request.param, subtype="FLOAT")
    return tmp_path / "my clip.wav", samples, request.param


def compare(path, mine, **options):
    return parity.compare({"log_mel": mine}, audio=path, n_mels=80, pad_to=1.2, **options)


@pytest.mark.parametrize(
    "resample",
    [polyphase, *(pytest.param(x, marks=pytest.mark.slow) for x in (fourier, quick, ffmpeg))],
)
def test_another_resampler_is_not_wrong(clip, resample):
    path, samples, rate = clip
    other = resample(samples, rate).astype(np.float32)
    report = compare(path, melfront.log_mel(other, n_mels=80, pad_to=1.2))
    assert [stage.verdict for stage in report.stages] == ["UNJUDGED"], report
    assert not report.ok
    assert f"{rate} Hz, and resampling is not judged" in report.headline()
    assert "check the front end on a 16 kHz file" in str(report)


def test_the_same_resampler_passes(clip):
    path, samples, rate = clip
    mine = melfront.log_mel(soxr.resample(samples, rate, 16_000), n_mels=80, pad_to=1.2)
    assert compare(path, mine).ok


@pytest.mark.parametrize("resample", [polyphase])
@pytest.mark.parametrize("name", ["HTK mel scale"])
def test_a_mistake_is_still_named(clip, resample, name):
    path, samples, rate = clip
    other = resample(samples, rate).astype(np.float32)
    convention = mistakes.find(name).convention()
    mine = variants.log_mel(other, n_mels=80, convention=convention, pad_to=1.2)
    report = compare(path, mine.astype(np.float32))
    assert name in [named.name for named in report.diagnosis.named], report
    assert report.stages[0].verdict == "WRONG"


def test_a_small_mistake_with_the_same_resampler_is_named(clip):
    path, samples, rate = clip
    convention = mistakes.find("symmetric window").convention()
    same = soxr.resample(samples, rate, 16_000)
    mine = variants.log_mel(same, n_mels=80, convention=convention, pad_to=1.2)
    report = compare(path, mine.astype(np.float32))
    assert [named.name for named in report.diagnosis.named] == ["symmetric window"], report


def test_the_command_writes_the_clip_at_16_khz(clip, monkeypatch):
    path, samples, rate = clip
    monkeypatch.chdir(path.parent)
    mine = melfront.log_mel(polyphase(samples, rate).astype(np.float32), n_mels=80, pad_to=1.2)
    (hint,) = compare(path, mine).hints
    exec(hint.split("python -c ")[1].strip("\"'"), {})
    written, at = soundfile.read("my clip-16k.wav", dtype="float32")
    assert at == 16_000
    np.testing.assert_array_equal(written, melfront.load_audio(path))


def test_hidden_states(tmp_path):
    rate = 48_000
    samples = soxr.resample(SPEECH, 16_000, rate)
    soundfile.write(tmp_path / "clip.wav", samples, rate, subtype="FLOAT")
    config = EncoderConfig(80, 50, 24, 2, 1, 53)
    model = WhisperEncoder.from_formula(config)
    other = polyphase(samples, rate).astype(np.float32)
    mine = model(melfront.log_mel(other, n_mels=80, pad_to=1.0)).last_hidden_state[0]
    report = parity.compare({"ln_post": mine}, audio=tmp_path / "clip.wav", model=model)
    assert report.stages[0].verdict == "UNJUDGED", report
    report = parity.compare({"ln_post": -mine}, audio=tmp_path / "clip.wav", model=model)
    assert report.stages[0].verdict == "WRONG", report
