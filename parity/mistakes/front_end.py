"""The front-end half of the catalogue: each entry changes fields of `melfront.Convention`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from melfront.conventions import HOP_LENGTH, TRANSFORMERS, Convention


@dataclass(frozen=True)
class FrontEndMistake:
    """One decision changed. `change` is what `Convention` is given instead of its defaults."""

    name: str
    stage: str  # the first stage that it spoils
    change: tuple[tuple[str, Any], ...]
    sentence: str  # what is wrong, and how people come to do it
    seen: str = ""  # where it has shipped

    def convention(self, base: Convention = TRANSFORMERS) -> Convention:
        return replace(base, name=self.name, **dict(self.change))


def mistake(name: str, stage: str, sentence: str, seen: str = "", **change: Any) -> FrontEndMistake:
    return FrontEndMistake(name, stage, tuple(change.items()), sentence, seen)


# Of a tensor, and of no decision: `diagnose.py` finds it at any stage.
RESHAPED = mistake(
    "reshaped, not transposed",
    "padded",
    "the numbers are right and their places wrong: memory of (rows, columns) is read as "
    "(columns, rows), as after a reshape where a transposition is meant, or a column-major array "
    "saved as a row-major one",
)

FRONT_END = [
    # --- waveform -------------------------------------------------------------------------------
    mistake(
        "zero padding",
        "padded",
        "the edges are padded with zeros, not reflected: librosa's default, and what a "
        "hand-written STFT does when nobody thinks of the edge",
        "librosa.stft defaults; tinygrad examples/whisper.py",
        pad_mode="constant",
    ),
    mistake(
        "edge padding",
        "padded",
        "the edge sample is repeated instead of the waveform reflected",
        pad_mode="edge",
    ),
    mistake(
        "symmetric padding",
        "padded",
        "the reflection repeats the edge sample: NumPy's 'symmetric' where 'reflect' is meant",
        pad_mode="symmetric",
    ),
    mistake(
        "reflected before the padding",
        "padded",
        "the clip's own ends are reflected and the zeros come after: the clip should be padded to "
        "30 s first, so that on the right silence is reflected",
        "fixed in NVIDIA/TensorRT-Model-Connect#1282",
        edges_first=True,
    ),
    mistake(
        "padded on the left",
        "padded",
        "the zeros stand before the clip, as decoders of language models are padded",
        pad_side="left",
    ),
    mistake(
        "a hop of zeros added",
        "padded",
        "160 zeros after the clip, which give one frame more",
        "faster-whisper's FeatureExtractor; its transcribe drops that frame again",
        extra_padding=HOP_LENGTH,
    ),
    mistake(
        "unscaled int16",
        "padded",
        "the samples are 16-bit integers as they were read, 32,768 times too large",
        "transformers' extractor takes int16 arrays so",
        gain=32768.0,
    ),
    mistake(
        "divided by 32767",
        "padded",
        "16-bit samples are divided by 32767 instead of 32768",
        gain=32768 / 32767,
    ),
    mistake(
        "channels added",
        "padded",
        "the two channels of a stereo file are added, not averaged: twice too loud",
        gain=2.0,
    ),
    mistake(
        "pre-emphasis",
        "padded",
        "x[n] - 0.97 x[n - 1], as Kaldi and most speech recognisers before Whisper do",
        preemphasis=0.97,
    ),
    mistake(
        "mean removed",
        "padded",
        "the clip's mean is taken off, as Kaldi's remove_dc_offset does for each frame",
        normalize="mean",
    ),
    mistake(
        "zero mean, unit variance",
        "padded",
        "the clip is normalised as wav2vec2 wants it",
        "transformers' do_normalize=True",
        normalize="variance",
    ),
    mistake(
        "peak normalised",
        "padded",
        "the clip is brought to a maximum of 1, as librosa.util.normalize and audio editors do",
        normalize="peak",
    ),
    # --- frames ---------------------------------------------------------------------------------
    mistake(
        "no centring",
        "padded",
        "frame f starts at sample 160 f; it should be centred there and start at 160 f - 200",
        "candle audio.rs; whisper.cpp before #1148",
        frame_start=0,
    ),
    mistake(
        "Kaldi framing",
        "padded",
        "frame f starts at sample 160 f - 120 and the edge samples are repeated: "
        "Kaldi's snip_edges=false",
        "kaldi-native-fbank's and sherpa-onnx's Whisper features",
        frame_start=-120,
        pad_mode="symmetric",
    ),
    mistake(
        "one sample late",
        "padded",
        "frame f starts at sample 160 f - 199: half of 399, or a window that counts from 1",
        frame_start=-199,
    ),
    mistake(
        "first frame dropped",
        "frames",
        "of the 3001 frames the first is dropped, not the last: everything is 10 ms early",
        drop="first",
    ),
    mistake(
        "no frame dropped",
        "frames",
        "all 3001 frames are kept; the last one should be dropped",
        drop=None,
    ),
    mistake(
        "last frame dropped after the maximum",
        "frames",
        "the 3001st frame still counts for the maximum; it should be dropped before",
        "fixed in NVIDIA/TensorRT-Model-Connect#1282",
        drop="last_after_max",
    ),
    mistake(
        "n_fft 512",
        "padded",
        "the 400-sample window is zero-padded to the next power of two, with filters to match",
        "Kaldi's round_to_power_of_two",
        n_fft=512,
        win_length=400,
    ),
    mistake(
        "window of 512 samples",
        "padded",
        "window and transform are 512 samples long, the next power of two",
        n_fft=512,
        win_length=512,
    ),
    # --- window ---------------------------------------------------------------------------------
    mistake(
        "symmetric window",
        "windowed",
        "the Hann window is symmetric (divided by 399), as numpy.hanning(400) and "
        "scipy.signal.windows.hann give it; it should be periodic (divided by 400)",
        periodic=False,
    ),
    mistake("Hamming window", "windowed", "a Hamming window instead of Hann", window="hamming"),
    mistake("Blackman window", "windowed", "a Blackman window instead of Hann", window="blackman"),
    mistake(
        "Povey window",
        "windowed",
        "Kaldi's default window, Hann to the power of 0.85",
        window="povey",
    ),
    mistake(
        "square root of Hann",
        "windowed",
        "the window of overlap-add synthesis: the root of Hann",
        window="sqrt_hann",
    ),
    mistake("no window", "windowed", "the frames are not windowed at all", window=None),
    # --- spectrum and power ---------------------------------------------------------------------
    mistake(
        "normalised STFT",
        "spectrum",
        "the transform is divided by sqrt(400), or the power by 400: torch.stft(normalized=True), "
        "norm='ortho', the periodogram of tutorials",
        spectrum_scale=1 / 20,
    ),
    mistake(
        "divided by n_fft",
        "spectrum",
        "the transform is divided by 400, as inverse or 'forward' normalised transforms are",
        spectrum_scale=1 / 400,
    ),
    mistake(
        "divided by the window's sum",
        "spectrum",
        "the transform is divided by 200, the window's sum: scipy.signal.stft's scaling",
        spectrum_scale=1 / 200,
    ),
    mistake(
        "divided by the window's norm",
        "spectrum",
        "the transform is divided by the root of the window's energy: torchaudio's normalized=True",
        spectrum_scale=1 / math.sqrt(150),
    ),
    mistake(
        "magnitude",
        "power",
        "the magnitude is used where the power, its square, is meant: librosa's power=1",
        power=1.0,
    ),
    mistake(
        "folded spectrum",
        "power",
        "the mirrored half of the spectrum is added, which doubles the power of bins 1 .. 199",
        "candle audio.rs; whisper.cpp before #1148",
        folded=True,
    ),
    mistake(
        "real part only",
        "power",
        "the real part is squared and the imaginary part forgotten",
        spectrum_part="real",
    ),
    # --- mel ------------------------------------------------------------------------------------
    mistake(
        "HTK mel scale",
        "mel",
        "the filters lie on the HTK scale, 2595 log10(1 + f / 700), and not on Slaney's",
        "librosa's htk=True",
        mel_scale="htk",
    ),
    mistake(
        "no area norm",
        "mel",
        "the filters are not divided by their width: all triangles are 1 high",
        "paiml/whisper.apr#7; librosa's norm=None",
        mel_norm=None,
    ),
    mistake(
        "HTK mel scale without area norm",
        "mel",
        "torchaudio's MelSpectrogram as it comes; it wants norm='slaney', mel_scale='slaney'",
        "torchaudio.transforms.MelSpectrogram defaults",
        mel_scale="htk",
        mel_norm=None,
    ),
    mistake(
        "filters from 20 Hz",
        "mel",
        "the lowest filter starts at 20 Hz, Kaldi's low_freq, instead of 0",
        f_min=20.0,
    ),
    mistake(
        "filters up to 7600 Hz",
        "mel",
        "the highest filter ends at 7600 Hz, as vocoders have it, instead of 8000",
        f_max=7600.0,
    ),
    mistake(
        "filters for 22,050 Hz",
        "mel",
        "the filters are made for librosa's default sampling rate",
        "librosa.filters.mel defaults",
        filter_rate=22_050,
        f_max=11_025.0,
    ),
    mistake(
        "filters one bin too high",
        "mel",
        "the bin of 0 Hz was dropped from the filters' side only, or an index counts from 1",
        bin_shift=1,
    ),
    mistake(
        "flipped mel axis",
        "mel",
        "the highest bin comes first, as pictures are drawn from the top",
        flip_mels=True,
    ),
    mistake(
        "TF32 mel product",
        "mel",
        "the filter product keeps 10 bits of each factor: tensor cores at their default, or "
        "float16 factors",
        "whisper.cpp's CUDA mel of June 2024",
        mel_mantissa=10,
    ),
    mistake(
        "bfloat16 mel product",
        "mel",
        "the filter product keeps 7 bits of each factor: autocast around the front end",
        mel_mantissa=7,
    ),
    # --- log ------------------------------------------------------------------------------------
    mistake(
        "natural logarithm",
        "log",
        "log where log10 is meant: everything 2.3 times",
        log_base=math.e,
    ),
    mistake("log2", "log", "log2 where log10 is meant: everything 3.3 times", log_base=2.0),
    mistake(
        "decibels",
        "log",
        "10 log10, as librosa.power_to_db gives it; the clamp at 8 then cuts at 8 dB",
        log_factor=10.0,
    ),
    mistake("floor of 1e-5", "log", "the logarithm's floor is 1e-5, not 1e-10", log_floor=1e-5),
    mistake("floor of 1e-6", "log", "the logarithm's floor is 1e-6, not 1e-10", log_floor=1e-6),
    mistake("floor of 1e-7", "log", "the logarithm's floor is 1e-7, not 1e-10", log_floor=1e-7),
    mistake("floor of 1e-8", "log", "the logarithm's floor is 1e-8, not 1e-10", log_floor=1e-8),
    mistake("floor of 1e-12", "log", "the logarithm's floor is 1e-12, not 1e-10", log_floor=1e-12),
    mistake(
        "floor of float32 eps",
        "log",
        "the logarithm's floor is 1.19e-7, the eps of float32: Kaldi's",
        log_floor=2.0**-23,
    ),
    mistake(
        "floor added",
        "log",
        "log10(x + 1e-10) where log10(max(x, 1e-10)) is meant",
        floor_added=True,
    ),
    # --- clamp ----------------------------------------------------------------------------------
    mistake(
        "batch-wide maximum",
        "clamped",
        "one maximum for the whole batch, so that a loud clip lifts the floor of a quiet one",
        "openai-whisper's log_mel_spectrogram of a batch",
        max_scope="batch",
    ),
    mistake(
        "maximum of each frame",
        "clamped",
        "each frame is clamped below its own maximum, not the clip's",
        max_scope="frame",
    ),
    mistake(
        "maximum of each bin",
        "clamped",
        "each mel bin is clamped below its own maximum, not the clip's",
        max_scope="bin",
    ),
    mistake("no clamp", "clamped", "nothing is clamped at the maximum less 8", max_scope=None),
    mistake(
        "fixed maximum",
        "clamped",
        "1.5 stands for the maximum, as in streaming front ends that cannot know it",
        "Voxtral's global_log_mel_max, vLLM #33574",
        fixed_max=1.5,
    ),
    # --- scale ----------------------------------------------------------------------------------
    mistake("not scaled", "features", "(x + 4) / 4 is left out", offset=0.0, divisor=1.0),
    mistake("not divided by 4", "features", "x + 4 where (x + 4) / 4 is meant", divisor=1.0),
    mistake(
        "x + 4 / 4",
        "features",
        "x + 4 / 4, which adds 1, where (x + 4) / 4 is meant",
        offset=1.0,
        divisor=1.0,
    ),
    mistake("x / 4 + 4", "features", "4 is added after the division, not before", offset=16.0),
    mistake("offset left out", "features", "x / 4 where (x + 4) / 4 is meant", offset=0.0),
    mistake(
        "tail of zeros",
        "features",
        "the features are filled up with 0.0 after the clip; padding the waveform gives what "
        "silence gives",
        "openai-whisper's transcribe, mlx-whisper, faster-whisper, sherpa-onnx",
        fill=0.0,
    ),
    mistake(
        "tail of -1.5",
        "features",
        "the frames after the clip hold the value of pure silence, without the clamp that lifts "
        "them with the rest",
        fill=-1.5,
    ),
    mistake(
        "normalised per bin",
        "features",
        "each bin is brought to mean 0 and variance 1 over time, as NeMo's per_feature does",
        output_mean="bin",
    ),
    mistake(
        "normalised features",
        "features",
        "the features are brought to mean 0 and variance 1",
        output_mean="item",
    ),
]
