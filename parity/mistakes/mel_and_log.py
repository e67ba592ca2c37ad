"""The front-end entries from the power on, in the order in which the signal meets each decision."""

from __future__ import annotations

import math

from .entry import mistake

MEL_AND_LOG = [
    mistake(
        "magnitude: the magnitude is used where the power, its square, is meant: librosa's power=1",
        power=1.0,
    ),
    mistake(
        "imaginary part only: the imaginary part is squared and the real part forgotten",
        spectrum_part="imaginary",
    ),
    mistake(
        "folded spectrum: the mirrored half of the spectrum is added, which doubles the power of "
        "bins 1 .. 199",
        seen="candle audio.rs; whisper.cpp before #1148",
        folded=True,
    ),
    mistake(
        "real part only: the real part is squared and the imaginary part forgotten",
        spectrum_part="real",
    ),
    mistake(
        "HTK mel scale: the filters are spaced on the HTK scale, 2595 log10(1 + f / 700), not on "
        "Slaney's",
        seen="librosa's htk=True",
        mel_scale="htk",
    ),
    mistake(
        "no area norm: the filters are not divided by their width: all triangles are 1 high",
        seen="paiml/whisper.apr#7; librosa's norm=None",
        mel_norm=None,
    ),
    mistake(
        "HTK mel scale without area norm: torchaudio's MelSpectrogram as it comes; it wants "
        "norm='slaney', mel_scale='slaney'",
        seen="torchaudio.transforms.MelSpectrogram defaults",
        mel_scale="htk",
        mel_norm=None,
    ),
    mistake(
        "filters that sum to 1: each filter is divided by the sum of its weights, not by its width",
        seen="librosa.filters.mel(norm=1)",
        mel_norm="sum",
    ),
    mistake(
        "filters with a peak of 1: each filter is divided by its largest weight, not by its width",
        seen="librosa.filters.mel(norm=numpy.inf)",
        mel_norm="peak",
    ),
    mistake(
        "corners on whole bins: the triangles' corners stand at floor(401 f / 16000), on Slaney's "
        "scale",
        corners="floor",
    ),
    mistake(
        "corners rounded down: the triangles' corners stand at floor(400 f / 16000)",
        corners="floor_n_fft",
    ),
    mistake(
        "corners rounded: the triangles' corners stand at the nearest bin, round(400 f / 16000)",
        corners="round",
    ),
    mistake(
        "HTK filters on whole bins: the corners stand on HTK's mel scale at floor(401 f / 16000); "
        "the triangles are divided by their width",
        seen="vllm-metal #729; tutorials after python_speech_features",
        mel_scale="htk",
        corners="floor",
    ),
    mistake(
        "HTK filters on whole bins without area norm: the corners stand on HTK's mel scale at "
        "floor(401 f / 16000), and all triangles are 1 high",
        seen="python_speech_features and the tutorials after it",
        mel_scale="htk",
        corners="floor",
        mel_norm=None,
    ),
    mistake(
        "filters straight in mels: the triangles' sides are straight on the mel scale, as Kaldi's "
        "are, not in Hz",
        straight_in_mels=True,
    ),
    mistake(
        "Kaldi's filters: HTK's scale from 20 Hz, sides that are straight in mels, no area norm",
        seen="torchaudio.compliance.kaldi, kaldi-native-fbank",
        mel_scale="htk",
        mel_norm=None,
        straight_in_mels=True,
        f_min=20.0,
    ),
    mistake("filters from 50 Hz: the lowest filter starts at 50 Hz instead of 0", f_min=50.0),
    mistake(
        "filters from 80 to 7600 Hz: the filters span 80 to 7600 Hz, as ESPnet has them, not 0 to "
        "8000",
        f_min=80.0,
        f_max=7600.0,
    ),
    mistake(
        "filters from 125 to 7600 Hz: the filters span 125 to 7600 Hz, as Tacotron has them, not 0 "
        "to 8000",
        f_min=125.0,
        f_max=7600.0,
    ),
    mistake(
        "filters up to 4000 Hz: the highest filter ends at 4000 Hz, as for telephony", f_max=4000.0
    ),
    mistake(
        "filters from 20 Hz: the lowest filter starts at 20 Hz, Kaldi's low_freq, instead of 0",
        f_min=20.0,
    ),
    mistake(
        "filters up to 7600 Hz: the highest filter ends at 7600 Hz, as vocoders have it, instead "
        "of 8000",
        f_max=7600.0,
    ),
    mistake(
        "filters for 22,050 Hz: the filters are made for librosa's default sampling rate",
        seen="librosa.filters.mel defaults",
        filter_rate=22_050,
        f_max=11_025.0,
    ),
    mistake(
        "filters one bin too high: the bin of 0 Hz was dropped from the filters' side only, or an "
        "index counts from 1",
        bin_shift=1,
    ),
    mistake(
        "filters one bin too low: the bin of 0 Hz was dropped from the spectrum's side only",
        bin_shift=-1,
    ),
    mistake(
        "bins spread over 201: bin k is taken for k / 201 of 8000 Hz, not k / 200: "
        "linspace(0, 8000, 201, endpoint=False)",
        filter_rate=16_000 * 200 / 201,
    ),
    mistake(
        "bins spread over 401: bin k is taken for k / 401 of 16,000 Hz, not k / 400",
        filter_rate=16_000 * 400 / 401,
    ),
    mistake(
        "flipped mel axis: the highest bin comes first, as pictures are drawn from the top",
        flip_mels=True,
    ),
    mistake(
        "TF32 mel product: the filter product keeps 10 bits of each factor: tensor cores at their "
        "default, or float16 factors",
        seen="whisper.cpp's CUDA mel of June 2024",
        mel_mantissa=10,
    ),
    mistake(
        "bfloat16 mel product: the filter product keeps 7 bits of each factor: autocast around the "
        "front end",
        mel_mantissa=7,
    ),
    mistake("natural logarithm: log where log10 is meant: everything 2.3 times", log_base=math.e),
    mistake(
        "natural logarithm as it is: log where log10 is meant, no clamp, not scaled",
        log_base=math.e,
        max_scope=None,
        offset=0.0,
        divisor=1.0,
    ),
    mistake("log2: log2 where log10 is meant: everything 3.3 times", log_base=2.0),
    mistake(
        "decibels: 10 log10, as librosa.power_to_db gives it; the clamp at 8 then cuts at 8 dB",
        log_factor=10.0,
    ),
    mistake(
        "decibels clamped at 80 dB: 10 log10 with a clamp 80 below the maximum, as "
        "librosa.power_to_db gives it, then (x + 4) / 4",
        log_factor=10.0,
        dynamic_range=80.0,
    ),
    mistake(
        "20 log10: 20 log10 of the power, which is for magnitudes; the clamp at 8 then cuts at 8",
        log_factor=20.0,
    ),
    mistake("half the logarithm: log10 of the root of the mel power", log_factor=0.5),
    mistake("no logarithm: the logarithm is left out, the rest is done", logarithm=False),
    mistake(
        "log1p: log(1 + x) where log10(max(x, 1e-10)) is meant",
        log_base=math.e,
        log_floor=1.0,
        floor_added=True,
    ),
    mistake(
        "log10(1 + x): log10(1 + x) where log10(max(x, 1e-10)) is meant",
        log_floor=1.0,
        floor_added=True,
    ),
    mistake("floor of 1e-5: the logarithm's floor is 1e-5, not 1e-10", log_floor=1e-5),
    mistake("floor of 1e-6: the logarithm's floor is 1e-6, not 1e-10", log_floor=1e-6),
    mistake("floor of 1e-7: the logarithm's floor is 1e-7, not 1e-10", log_floor=1e-7),
    mistake("floor of 1e-8: the logarithm's floor is 1e-8, not 1e-10", log_floor=1e-8),
    mistake("floor of 1e-12: the logarithm's floor is 1e-12, not 1e-10", log_floor=1e-12),
    mistake(
        "floor of float32 eps: the logarithm's floor is 1.19e-7, the eps of float32: Kaldi's",
        log_floor=2.0**-23,
    ),
    mistake(
        "floor of float64 eps: the logarithm's floor is 2.2e-16, the eps of float64: "
        "python_speech_features'",
        log_floor=2.0**-52,
    ),
    mistake(
        "floor of 1e-6 added: log10(x + 1e-6) where log10(max(x, 1e-10)) is meant",
        log_floor=1e-6,
        floor_added=True,
    ),
    mistake("floor added: log10(x + 1e-10) where log10(max(x, 1e-10)) is meant", floor_added=True),
    mistake(
        "batch-wide maximum: one maximum for the whole batch, so that a loud clip lifts the floor "
        "of a quiet one",
        seen="openai-whisper's log_mel_spectrogram of a batch",
        max_scope="batch",
    ),
    mistake(
        "maximum of each frame: each frame is clamped below its own maximum, not the clip's",
        max_scope="frame",
    ),
    mistake(
        "maximum of each bin: each mel bin is clamped below its own maximum, not the clip's",
        max_scope="bin",
    ),
    mistake("no clamp: nothing is clamped at the maximum less 8", max_scope=None),
    mistake(
        "maximum so far: each frame is clamped below the maximum of the frames up to it, as in a "
        "stream",
        max_running=True,
    ),
    mistake(
        "maximum subtracted: the maximum is taken off, so that the loudest value is 0 before "
        "(x + 4) / 4",
        max_subtracted=True,
    ),
    mistake("dynamic range of 8 dB: clamped 0.8 below the maximum, 8 dB, not 8", dynamic_range=0.8),
    mistake(
        "dynamic range of 8 nepers: clamped at 8 in natural logarithm, 3.47 in log10",
        dynamic_range=8 / math.log(10),
    ),
    mistake("dynamic range of 4: clamped 4 below the maximum, not 8", dynamic_range=4.0),
    mistake("maximum of 0: 0 stands for the maximum: everything below -8 is -8", fixed_max=0.0),
    mistake(
        "fixed maximum: 1.5 stands for the maximum, as in streaming front ends that cannot know it",
        seen="Voxtral's global_log_mel_max, vLLM #33574",
        fixed_max=1.5,
    ),
    mistake("not scaled: (x + 4) / 4 is left out", offset=0.0, divisor=1.0),
    mistake("not divided by 4: x + 4 where (x + 4) / 4 is meant", divisor=1.0),
    mistake(
        "x + 4 / 4: x + 4 / 4, which adds 1, where (x + 4) / 4 is meant", offset=1.0, divisor=1.0
    ),
    mistake("x / 4 + 4: 4 is added after the division, not before", offset=16.0),
    mistake("4 subtracted: (x - 4) / 4 where (x + 4) / 4 is meant", offset=-4.0),
    mistake(
        "AST's mean and deviation: (x + 4.27) / 9.14, the constants of AudioSet's transformer",
        seen="transformers' ASTFeatureExtractor",
        offset=4.2677393,
        divisor=2 * 4.5689974,
    ),
    mistake("offset left out: x / 4 where (x + 4) / 4 is meant", offset=0.0),
    mistake(
        "tail of zeros: the features are filled up with 0.0 after the clip; padding the waveform "
        "gives what silence gives",
        seen="openai-whisper's transcribe, mlx-whisper, faster-whisper, sherpa-onnx",
        fill=0.0,
    ),
    mistake(
        "features filled up with zeros: the clip is not padded to 30 s; its features are, with 0.0",
        seen="vllm-metal #729; padding the mel instead of the waveform",
        own_length=True,
        fill=0.0,
    ),
    mistake(
        "tail of -1.5: the frames after the clip hold the value of pure silence, without the clamp "
        "that lifts them with the rest",
        fill=-1.5,
    ),
    mistake(
        "normalised per bin: each bin is brought to mean 0 and variance 1 over time, as NeMo's "
        "per_feature does",
        output_mean="bin",
    ),
    mistake(
        "normalised features: the features are brought to mean 0 and variance 1", output_mean="item"
    ),
    mistake(
        "normalised per bin, unbiased: each bin is brought to mean 0 and variance 1 over time, as "
        "torch.std and NeMo's per_feature count it",
        output_mean="bin_unbiased",
    ),
    mistake(
        "mean of each bin removed: the mean over time is taken off each bin", output_mean="bin_mean"
    ),
    mistake(
        "normalised per frame: each frame is brought to mean 0 and variance 1", output_mean="frame"
    ),
    mistake("brought to 0 .. 1: the least value becomes 0 and the largest 1", output_mean="range"),
]
