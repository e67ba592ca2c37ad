"""Other libraries' own features are named after the library."""

import numpy as np
import pytest
import torch

from melfront import parity
from melfront.parity import signals
from tests.parity.commands import soon

kaldi_native_fbank = pytest.importorskip("kaldi_native_fbank")
librosa = pytest.importorskip("librosa")
python_speech_features = pytest.importorskip("python_speech_features")

CLIP = signals.piece(24_000)  # ends inside a vowel
PAD_TO, N_MELS = 2.0, 80
PADDED = np.pad(CLIP, (0, 8_000))

pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filterbank has all zero values")


def kaldi(gain=1.0, **options):
    """(M, F)"""
    settings = kaldi_native_fbank.FbankOptions()
    settings.frame_opts.dither = 0
    settings.mel_opts.num_bins = N_MELS
    for name, value in options.items():
        setattr(settings.frame_opts, name, value)
    bank = kaldi_native_fbank.OnlineFbank(settings)
    bank.accept_waveform(16_000, (gain * PADDED).tolist())
    bank.input_finished()
    return np.stack([bank.get_frame(i) for i in range(bank.num_frames_ready)], axis=1)


def ast():
    return (kaldi(window_type="hanning") + 4.2677393) / (2 * 4.5689974)


def nemo():
    from transformers import ParakeetFeatureExtractor

    extractor = ParakeetFeatureExtractor(feature_size=N_MELS)
    options = {"padding": "max_length", "max_length": len(PADDED), "sampling_rate": 16_000}
    return extractor(CLIP, **options)["input_features"][0].T[:, :200]


def melspectrogram(**options):
    return librosa.feature.melspectrogram(y=PADDED, sr=16_000, n_mels=N_MELS, **options)


def with_filters(**options):
    spectrum = librosa.stft(PADDED, n_fft=400, hop_length=160, pad_mode="reflect")[:, :-1]
    bank = librosa.filters.mel(sr=16_000, n_fft=400, n_mels=N_MELS, **options)
    log = np.log10(np.maximum(bank @ np.abs(spectrum) ** 2, 1e-10))
    return (np.maximum(log, log.max() - 8) + 4) / 4


def speech_features():
    return python_speech_features.logfbank(PADDED.astype(np.float64), nfilt=N_MELS).T


SHORT = {"n_fft": 400, "hop_length": 160}
THEIRS = {
    "Kaldi's filterbank": kaldi,
    "Kaldi's filterbank with its edges": lambda: kaldi(snip_edges=False),
    "WeNet's filterbank": lambda: kaldi(32_768.0),
    "FunASR's filterbank": lambda: kaldi(32_768.0, window_type="hamming"),
    "AST's features": ast,
    "NeMo's features": nemo,
    "librosa's decibels": lambda: librosa.power_to_db(melspectrogram(**SHORT)),
    "librosa's decibels below the maximum": lambda: librosa.power_to_db(
        melspectrogram(**SHORT), ref=np.max
    ),
    "librosa's defaults": lambda: librosa.power_to_db(melspectrogram()),
    "python_speech_features": speech_features,
    "filters that sum to 1": lambda: with_filters(norm=1),
    "filters with a peak of 1": lambda: with_filters(norm=np.inf),
}


@pytest.mark.parametrize("name", soon(THEIRS, *list(THEIRS)[::2]))
def test_library_is_named(name):
    features = torch.from_numpy(np.array(THEIRS[name]())).float()
    report = parity.compare({"features": features}, audio=CLIP, n_mels=N_MELS, pad_to=PAD_TO)
    assert [named.name for named in report.diagnosis.named] == [name], report
