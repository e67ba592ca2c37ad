"""Common beliefs about Whisper's front end, each checked on the other libraries.

One test for each row of README's table that no other test covers. Tests call the libraries as their
users do, and melfront only where no library exposes the stage.
"""

from __future__ import annotations

import logging
import math
from unittest.mock import patch

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper import feature_extraction_whisper, modeling_whisper

import melfront
from melfront.encoder import SIZES
from tests.encoder.peers import rms
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
    """The same features from transformers' NumPy path, whose FFT is in float64."""
    with patch.object(feature_extraction_whisper, "is_torch_available", lambda: False):
        return extract(audio, n_mels)


# The seed experiment, the first step of every tutorial. README shows it with melfront, and
# test_readme.py runs that at large-v3's size.


def test_the_seed_experiment(sample):
    """129,600 samples: the shapes from transformers at large-v3's dimensions."""
    assert len(sample) / 16_000 == 8.1
    out = WhisperFeatureExtractor(feature_size=128)(
        sample, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True
    )
    assert out["input_features"].shape == (1, 128, 3000)
    assert out["attention_mask"].shape == (1, 3000)
    assert out["attention_mask"].sum() == 810
    mel, mask = melfront.log_mel(sample, return_mask=True)
    # Bounded by transformers' own error: the error of a float32 FFT depends on the CPU.
    theirs, exact = out["input_features"][0].numpy(), extract_without_torch(sample, 128)[0]
    assert np.abs(mel - theirs).max() <= np.abs(theirs - exact).max() + 1e-6  # a few ulp
    assert np.array_equal(mask, out["attention_mask"][0])

    with torch.device("meta"):  # shapes only: the weights would be 2.5 GB
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
    # The counts that people expect: the windows that fit, rounded down or up, and all frames of
    # the centred transform, of which Whisper drops the last.
    assert (len(clip) - 400) // 160 + 1 == 98
    assert math.ceil((len(clip) - 400) / 160) + 1 == 99
    assert torch.tensor(clip).unfold(0, 400, 160).shape == (98, 400)
    window = torch.hann_window(400)
    assert torch.stft(torch.tensor(clip), 400, 160, window=window, return_complex=True).shape == (
        201,
        101,
    )


def test_the_first_frame_is_mirrored(sample):
    """The same sound gives other values after silence or in the middle of a recording."""
    after_silence = np.concatenate([np.zeros(16_000, np.float32), sample])
    first = extract(sample)[0]
    later = extract(after_silence)[0, :, 100:]
    differ = np.abs(first[:, : later.shape[1]] - later).max(axis=0) > 1e-3
    # Frames 0 and 1 start before the clip, at samples -200 and -40; frame 2 starts at 120.
    assert differ[:2].all()
    assert not differ[2:811].any()


def test_padding_changes_the_last_frame(sample):
    """Without padding, the clip's end is mirrored; padded to 30 s, zeros follow it."""
    alone = extract(sample, padding="do_not_pad")[0]
    padded = extract(sample)[0]
    assert alone.shape == (80, 810)
    differ = np.abs(alone - padded[:, :810]).max(axis=0) > 1e-3
    # Frame 809 covers samples 129,240 .. 129,639; the clip ends before 129,600.
    assert np.flatnonzero(differ).tolist() == [809]


def test_two_frames_outside_the_mask_hear_the_clip(sample):
    """Frames 810 and 811 start at samples 129,400 and 129,560 of 129,600."""
    out = WhisperFeatureExtractor()(sample, sampling_rate=16_000, return_attention_mask=True)
    mel, mask = np.asarray(out["input_features"])[0], np.asarray(out["attention_mask"])[0]
    assert np.flatnonzero(mask).tolist() == list(range(810))
    assert (mel[:, 810] != mel[:, 812]).any()
    assert (mel[:, 811] != mel[:, 812]).any()
    assert (mel[:, 812:] == mel[:, 812:813]).all()

    # If the last 200 samples are silent, so are these frames.
    quiet_end = sample.copy()
    quiet_end[129_400:] = 0
    mel = extract(quiet_end)[0]
    assert (mel[:, 810:] == mel[:, 812:813]).all()


# Features


def test_padding_is_not_zero(sample):
    """Nor is it -1.5: it is the largest value minus 2, and at least -1.5."""
    for n_mels in (80, 128):
        mel = extract(sample, n_mels)[0]
        padding = mel[:, 812:]
        assert (padding == padding[0, 0]).all()
        assert padding[0, 0] == pytest.approx(mel.max() - 2, abs=1e-6)  # 8 / 4; a few ulp
        assert -0.8 < padding[0, 0] < -0.6
    assert (extract(np.zeros(16_000, np.float32)) == SILENCE).all()
    # A clip whose largest value is below 0.5 is not clamped: its padding is that of silence.
    faint = extract(1e-3 * sample)[0]
    assert faint.max() < 0.5
    assert (faint[:, 812:] == SILENCE).all()


def test_features_leave_minus_1_to_1():
    tone = np.sin(2 * np.pi * 440 * np.arange(480_000) / 16_000).astype(np.float32)
    assert extract(tone).max() > 1.5
    assert extract(np.zeros(16_000, np.float32)).min() == SILENCE


def test_transformers_has_two_answers(sample):
    """One with torch installed and one without; the latter is much closer to float64.

    A float32 FFT has an error of about 1e-7 of the loudest frequency. At 80 dB below, that is 1e-3,
    or 2e-4 in the feature: the upper bound. Rounding the result alone would give 1e-7.
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
    # transformers uses the maximum of each clip.
    assert np.array_equal(extract([1e-3 * sample, sample])[0], extract(1e-3 * sample)[0])


def test_transcribe_pads_with_zeros_after_the_features(sample):
    """Intercept the features that openai-whisper's `transcribe` passes to its encoder."""
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


# Input audio


def test_int16_is_not_scaled(sample):
    pcm = np.round(sample * 32_767).astype(np.int16)
    shift = extract(pcm)[0] - extract(sample)[0]
    # Power is 32768^2 times as large: features are 2 log10(32768) / 4 higher if not clamped.
    assert np.median(shift) == pytest.approx(np.log10(32_768) / 2, abs=0.01)
    assert np.abs(melfront.log_mel(pcm, n_mels=80) - extract(sample)[0]).max() < 0.1


def test_stereo_becomes_two_clips(sample):
    stereo = np.stack([sample, sample[::-1]])
    assert extract(stereo).shape == (2, 80, 3000)


def test_nothing_is_resampled(sample):
    """Without sampling_rate, 16 kHz is assumed; with it, any other rate is refused."""
    half = sample[::2]  # like an 8 kHz file
    out = WhisperFeatureExtractor()(half, return_attention_mask=True)
    assert np.asarray(out["attention_mask"]).sum() == 405
    with pytest.raises(ValueError, match="sampling rate of 16000"):
        extract(half, sampling_rate=8_000)


def test_what_is_longer_than_30_s_is_cut():
    clip = Signal("noise", 480_000 + 16_000).array()
    assert np.array_equal(extract(clip), extract(clip[:480_000]))
