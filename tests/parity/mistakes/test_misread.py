"""Files read wrongly are named, also with a mistake of the front end on top."""

import numpy as np
import pytest
import soundfile

import melfront
from melfront import parity
from melfront.parity.signals import SIGNALS
from tests.parity import ports

SPEECH = melfront.audio.resample(SIGNALS["speech"].make(), 8_000)  # twice as many samples


def wav(folder, rate):
    """A stereo file at this rate, and its samples (n, 2)."""
    samples = np.stack([SPEECH, 0.3 * SPEECH[::-1]], axis=1)
    soundfile.write(folder / "clip.wav", samples, rate, subtype="FLOAT")
    return folder / "clip.wav", samples


def linear(mono, rate):
    at = np.arange(int(len(mono) * 16_000 / rate)) * rate / 16_000
    return np.interp(at, np.arange(len(mono)), mono).astype(np.float32)


READ = {
    ("every n-th sample", 48_000): lambda x: x.mean(axis=1)[::3],
    ("linear interpolation", 44_100): lambda x: linear(x.mean(axis=1), 44_100),
    ("nearest sample", 44_100): lambda x: x.mean(axis=1)[
        (np.arange(int(len(x) / 2.75625)) * 2.75625).astype(int)
    ],
    ("second channel", 16_000): lambda x: x[:, 1].copy(),
    ("difference of channels", 16_000): lambda x: (x[:, 0] - x[:, 1]) / 2,
}


@pytest.mark.parametrize(("name", "rate"), READ)
def test_misread_file(tmp_path, name, rate):
    path, samples = wav(tmp_path, rate)
    mine = melfront.log_mel(READ[name, rate](samples), n_mels=80, pad_to=1.0)
    report = parity.compare({"log_mel": mine}, audio=path, n_mels=80, pad_to=1.0)
    assert [named.name for named in report.diagnosis.named] == [name], report


def test_interleaved_and_another_mistake(tmp_path):
    path, samples = wav(tmp_path, 16_000)
    clip = samples.reshape(-1)[:16_000]
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(clip, 200, mode="reflect"), 400)
    power = np.abs(np.fft.rfft(frames[::160][:-1] * np.hamming(401)[:-1])) ** 2
    mine = ports.finish(ports.bank(80) @ power.T)
    report = parity.compare({"log_mel": mine}, audio=path, n_mels=80, pad_to=1.0)
    found = [{entry.name for entry in named.entries} for named in report.diagnosis.named]
    assert found == [{"channels interleaved", "Hamming window"}], report
