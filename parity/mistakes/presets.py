"""What other front ends do as a whole: several decisions at once, which people copy together."""

from __future__ import annotations

import math
from typing import Any

from .entry import mistake

RAW: dict[str, Any] = {"max_scope": None, "offset": 0.0, "divisor": 1.0}  # the logarithm as it is
KALDI = RAW | {
    "frame_mean": True,
    "frame_preemphasis": 0.97,
    "n_fft": 512,
    "win_length": 400,
    "frame_start": -56,  # the window, which stands in the middle of the 512, starts at 160 f
    "pad_mode": "symmetric",
    "window": "povey",
    "periodic": False,
    "mel_scale": "htk",
    "mel_norm": None,
    "straight_in_mels": True,
    "f_min": 20.0,
    "log_base": math.e,
    "log_floor": 2.0**-23,
}
DECIBELS = {"log_factor": 10.0, "offset": 0.0, "divisor": 1.0}
LIBROSA = DECIBELS | {"pad_mode": "constant", "drop": None, "dynamic_range": 80.0}
TORCHAUDIO = RAW | {"mel_scale": "htk", "mel_norm": None, "log_factor": 10.0, "drop": None}
WHOLE_BINS: dict[str, Any] = {
    "padded_preemphasis": 0.97,
    "n_fft": 512,
    "win_length": 400,
    "frame_start": -56,
    "pad_mode": "constant",
    "spectrum_scale": 1 / math.sqrt(512),
    "mel_scale": "htk",
    "mel_norm": None,
    "corners": "floor",
    "log_floor": 2.0**-52,
}

PRESETS = [
    mistake(
        "Kaldi's filterbank: pre-emphasis, Povey's window, 512 points, Kaldi's filters, natural "
        "logarithm; frame f starts at sample 160 f (snip_edges=true)",
        seen="torchaudio.compliance.kaldi.fbank, kaldi-native-fbank",
        **KALDI,
    ),
    mistake(
        "Kaldi's filterbank with its edges: pre-emphasis, Povey's window, 512 points, Kaldi's "
        "filters, natural logarithm; frame f starts at sample 160 f - 120 (snip_edges=false)",
        seen="torchaudio.compliance.kaldi.fbank, kaldi-native-fbank",
        **KALDI | {"frame_start": -176},
    ),
    mistake(
        "WeNet's filterbank: Kaldi's, of samples that are 32,768 times as large",
        seen="wenet/dataset/processor.py",
        **KALDI | {"gain": 32768.0},
    ),
    mistake(
        "FunASR's filterbank: Kaldi's, of samples that are 32,768 times as large, with a Hamming "
        "window",
        seen="FunASR's WavFrontend",
        **KALDI | {"gain": 32768.0, "window": "hamming"},
    ),
    mistake(
        "AST's features: Kaldi's filterbank with a Hann window, (x + 4.27) / 9.14",
        seen="transformers' ASTFeatureExtractor",
        **KALDI | {"window": "hann", "offset": 4.2677393, "divisor": 2 * 4.5689974},
    ),
    mistake(
        "NeMo's features: pre-emphasis, 512 points, a symmetric window, zeros at the edges, "
        "natural log(x + 2^-24), each bin normalised over the clip, zeros after it",
        seen="NeMo's AudioToMelSpectrogramPreprocessor, transformers' ParakeetFeatureExtractor",
        **RAW,
        preemphasis=0.97,
        n_fft=512,
        win_length=400,
        periodic=False,
        pad_mode="constant",
        drop=None,
        log_base=math.e,
        log_floor=2.0**-24,
        floor_added=True,
        output_mean="bin_unbiased",
        fill=0.0,
    ),
    mistake(
        "librosa's decibels: zeros at the edges, no frame dropped, power_to_db with its 80 dB; not "
        "scaled",
        seen="librosa.feature.melspectrogram and librosa.power_to_db",
        **LIBROSA,
    ),
    mistake(
        "librosa's decibels below the maximum: zeros at the edges, no frame dropped, "
        "power_to_db(ref=numpy.max); not scaled",
        seen="librosa.feature.melspectrogram and librosa.power_to_db(ref=numpy.max)",
        **LIBROSA,
        max_subtracted=True,
    ),
    mistake(
        "librosa's defaults: 2048 points, a hop of 512, zeros at the edges, power_to_db; "
        "not scaled",
        seen="librosa.feature.melspectrogram(y=audio, sr=16000) and librosa.power_to_db",
        **LIBROSA,
        n_fft=2048,
        win_length=2048,
        hop_length=512,
    ),
    mistake(
        "torchaudio's decibels: HTK's scale without area norm, no frame dropped, AmplitudeToDB, no "
        "clamp; not scaled",
        seen="torchaudio.transforms.MelSpectrogram(n_fft=400, hop_length=160), AmplitudeToDB",
        **TORCHAUDIO,
    ),
    mistake(
        "torchaudio's defaults: a hop of 200, HTK's scale without area norm, AmplitudeToDB, no "
        "clamp; not scaled",
        seen="torchaudio.transforms.MelSpectrogram(16000) and AmplitudeToDB",
        **TORCHAUDIO,
        hop_length=200,
    ),
    mistake(
        "python_speech_features: pre-emphasis, no window, 512 points, power over 512, HTK filters "
        "on whole bins, natural logarithm",
        seen="python_speech_features.logfbank",
        **RAW | WHOLE_BINS | {"window": None, "log_base": math.e},
    ),
    mistake(
        "the tutorials' filterbank: pre-emphasis, a symmetric Hamming window, 512 points, power "
        "over 512, HTK filters on whole bins, 20 log10",
        seen="tutorials on MFCCs in Python",
        **RAW | WHOLE_BINS | {"window": "hamming", "periodic": False, "log_factor": 20.0},
    ),
    mistake(
        "whisper.cpp before #1148: frame f starts at sample 160 f, zeros stand after the clip, and "
        "the mirrored half of the spectrum is added",
        seen="whisper.cpp before #1148; candle audio.rs",
        frame_start=0,
        pad_mode="constant",
        folded=True,
    ),
]
