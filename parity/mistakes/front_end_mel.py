"""The front-end half of the catalogue, second part: from the mel filters to the features."""

from __future__ import annotations

import math

from .entry import catalogue, mistake

MEL_TO_FEATURES = catalogue(
    "mel",
    mistake(
        "HTK mel scale",
        "the filters are spaced on the HTK scale, 2595 log10(1 + f / 700), not on Slaney's",
        "librosa's htk=True",
        mel_scale="htk",
    ),
    mistake(
        "no area norm",
        "the filters are not divided by their width: all triangles are 1 high",
        "paiml/whisper.apr#7; librosa's norm=None",
        mel_norm=None,
    ),
    mistake(
        "HTK mel scale without area norm",
        "torchaudio's MelSpectrogram as it comes; it wants norm='slaney', mel_scale='slaney'",
        "torchaudio.transforms.MelSpectrogram defaults",
        mel_scale="htk",
        mel_norm=None,
    ),
    mistake(
        "filters from 20 Hz",
        "the lowest filter starts at 20 Hz, Kaldi's low_freq, instead of 0",
        f_min=20.0,
    ),
    mistake(
        "filters up to 7600 Hz",
        "the highest filter ends at 7600 Hz, as vocoders have it, instead of 8000",
        f_max=7600.0,
    ),
    mistake(
        "filters for 22,050 Hz",
        "the filters are made for librosa's default sampling rate",
        "librosa.filters.mel defaults",
        filter_rate=22_050,
        f_max=11_025.0,
    ),
    mistake(
        "filters one bin too high",
        "the bin of 0 Hz was dropped from the filters' side only, or an index counts from 1",
        bin_shift=1,
    ),
    mistake(
        "flipped mel axis",
        "the highest bin comes first, as pictures are drawn from the top",
        flip_mels=True,
    ),
    mistake(
        "TF32 mel product",
        "the filter product keeps 10 bits of each factor: tensor cores at their default, or "
        "float16 factors",
        "whisper.cpp's CUDA mel of June 2024",
        mel_mantissa=10,
    ),
    mistake(
        "bfloat16 mel product",
        "the filter product keeps 7 bits of each factor: autocast around the front end",
        mel_mantissa=7,
    ),
    "log",
    mistake("natural logarithm", "log where log10 is meant: everything 2.3 times", log_base=math.e),
    mistake("log2", "log2 where log10 is meant: everything 3.3 times", log_base=2.0),
    mistake(
        "decibels",
        "10 log10, as librosa.power_to_db gives it; the clamp at 8 then cuts at 8 dB",
        log_factor=10.0,
    ),
    mistake("floor of 1e-5", "the logarithm's floor is 1e-5, not 1e-10", log_floor=1e-5),
    mistake("floor of 1e-6", "the logarithm's floor is 1e-6, not 1e-10", log_floor=1e-6),
    mistake("floor of 1e-7", "the logarithm's floor is 1e-7, not 1e-10", log_floor=1e-7),
    mistake("floor of 1e-8", "the logarithm's floor is 1e-8, not 1e-10", log_floor=1e-8),
    mistake("floor of 1e-12", "the logarithm's floor is 1e-12, not 1e-10", log_floor=1e-12),
    mistake(
        "floor of float32 eps",
        "the logarithm's floor is 1.19e-7, the eps of float32: Kaldi's",
        log_floor=2.0**-23,
    ),
    mistake(
        "floor added", "log10(x + 1e-10) where log10(max(x, 1e-10)) is meant", floor_added=True
    ),
    "clamped",
    mistake(
        "batch-wide maximum",
        "one maximum for the whole batch, so that a loud clip lifts the floor of a quiet one",
        "openai-whisper's log_mel_spectrogram of a batch",
        max_scope="batch",
    ),
    mistake(
        "maximum of each frame",
        "each frame is clamped below its own maximum, not the clip's",
        max_scope="frame",
    ),
    mistake(
        "maximum of each bin",
        "each mel bin is clamped below its own maximum, not the clip's",
        max_scope="bin",
    ),
    mistake("no clamp", "nothing is clamped at the maximum less 8", max_scope=None),
    mistake(
        "fixed maximum",
        "1.5 stands for the maximum, as in streaming front ends that cannot know it",
        "Voxtral's global_log_mel_max, vLLM #33574",
        fixed_max=1.5,
    ),
    "features",
    mistake("not scaled", "(x + 4) / 4 is left out", offset=0.0, divisor=1.0),
    mistake("not divided by 4", "x + 4 where (x + 4) / 4 is meant", divisor=1.0),
    mistake(
        "x + 4 / 4", "x + 4 / 4, which adds 1, where (x + 4) / 4 is meant", offset=1.0, divisor=1.0
    ),
    mistake("x / 4 + 4", "4 is added after the division, not before", offset=16.0),
    mistake("offset left out", "x / 4 where (x + 4) / 4 is meant", offset=0.0),
    mistake(
        "tail of zeros",
        "the features are filled up with 0.0 after the clip; padding the waveform gives what "
        "silence gives",
        "openai-whisper's transcribe, mlx-whisper, faster-whisper, sherpa-onnx",
        fill=0.0,
    ),
    mistake(
        "tail of -1.5",
        "the frames after the clip hold the value of pure silence, without the clamp that lifts "
        "them with the rest",
        fill=-1.5,
    ),
    mistake(
        "normalised per bin",
        "each bin is brought to mean 0 and variance 1 over time, as NeMo's per_feature does",
        output_mean="bin",
    ),
    mistake(
        "normalised features",
        "the features are brought to mean 0 and variance 1",
        output_mean="item",
    ),
)
