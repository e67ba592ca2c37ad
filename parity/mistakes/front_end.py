"""The front-end half of the catalogue, in the order in which the signal meets each decision.

Each entry changes fields of `melfront.Convention`.
"""

from __future__ import annotations

import math

from melfront.conventions import HOP_LENGTH

from .entry import mistake

# A mistake with a tensor and not with a decision: `diagnosis` looks for it at every stage.
RESHAPED = mistake(
    "reshaped, not transposed: the numbers are right and their places wrong: memory of (rows, "
    "columns) is read as (columns, rows), as after a reshape where a transposition is meant, or a "
    "column-major array saved as a row-major one"
)

FRONT_END = [
    mistake(
        "zero padding: the edges are padded with zeros, not reflected: librosa's default, and what "
        "a hand-written STFT does when nobody thinks of the edge",
        seen="librosa.stft defaults; tinygrad examples/whisper.py",
        pad_mode="constant",
    ),
    mistake(
        "edge padding: the edge sample is repeated instead of the waveform reflected",
        pad_mode="edge",
    ),
    mistake(
        "symmetric padding: the reflection repeats the edge sample: NumPy's 'symmetric' where "
        "'reflect' is meant",
        pad_mode="symmetric",
    ),
    mistake(
        "reflected before the padding: the clip's own ends are reflected and the zeros come after: "
        "the clip should be padded to 30 s first, so that on the right silence is reflected",
        seen="fixed in NVIDIA/TensorRT-Model-Connect#1282",
        edges_first=True,
    ),
    mistake(
        "padded on the left: the zeros stand before the clip, as decoders of language models are "
        "padded",
        pad_side="left",
    ),
    mistake(
        "a hop of zeros added: 160 zeros after the clip, which give one frame more",
        seen="faster-whisper's FeatureExtractor; its transcribe drops that frame again",
        extra_padding=HOP_LENGTH,
    ),
    mistake(
        "unscaled int16: the samples are 16-bit integers as they were read, 32,768 times too large",
        seen="transformers' extractor takes int16 arrays so",
        gain=32768.0,
    ),
    mistake(
        "divided by 32767: 16-bit samples are divided by 32767 instead of 32768", gain=32768 / 32767
    ),
    mistake(
        "channels added: the two channels of a stereo file are added, not averaged: twice too loud",
        gain=2.0,
    ),
    mistake(
        "pre-emphasis: x[n] - 0.97 x[n - 1], as Kaldi and most speech recognisers before Whisper "
        "do",
        preemphasis=0.97,
    ),
    mistake(
        "mean removed: the clip's mean is taken off, as Kaldi's remove_dc_offset does for each "
        "frame",
        normalize="mean",
    ),
    mistake(
        "zero mean, unit variance: the clip is normalised as wav2vec2 wants it",
        seen="transformers' do_normalize=True",
        normalize="variance",
    ),
    mistake(
        "peak normalised: the clip is brought to a maximum of 1, as librosa.util.normalize and "
        "audio editors do",
        normalize="peak",
    ),
    mistake(
        "no centring: frame f starts at sample 160 f; it should be centred there and start at "
        "160 f - 200",
        seen="candle audio.rs; whisper.cpp before #1148",
        frame_start=0,
    ),
    mistake(
        "Kaldi framing: frame f starts at sample 160 f - 120 and the edge samples are repeated: "
        "Kaldi's snip_edges=false",
        seen="kaldi-native-fbank's and sherpa-onnx's Whisper features",
        frame_start=-120,
        pad_mode="symmetric",
    ),
    mistake(
        "one sample late: frame f starts at sample 160 f - 199: half of 399, or a window that "
        "counts from 1",
        frame_start=-199,
    ),
    mistake(
        "first frame dropped: of the 3001 frames the first is dropped, not the last: everything is "
        "10 ms early",
        drop="first",
    ),
    mistake(
        "no frame dropped: all 3001 frames are kept; the last one should be dropped", drop=None
    ),
    mistake(
        "last frame dropped after the maximum: the 3001st frame still counts for the maximum; it "
        "should be dropped before",
        seen="fixed in NVIDIA/TensorRT-Model-Connect#1282",
        drop="last_after_max",
    ),
    mistake(
        "n_fft 512: the 400-sample window is zero-padded to the next power of two, with filters to "
        "match",
        seen="Kaldi's round_to_power_of_two",
        n_fft=512,
        win_length=400,
    ),
    mistake(
        "window of 512 samples: window and transform are 512 samples long, the next power of two",
        n_fft=512,
        win_length=512,
    ),
    mistake(
        "symmetric window: the Hann window is symmetric (divided by 399), as numpy.hanning(400) "
        "and scipy.signal.windows.hann give it; it should be periodic (divided by 400)",
        periodic=False,
    ),
    mistake("Hamming window: a Hamming window instead of Hann", window="hamming"),
    mistake("Blackman window: a Blackman window instead of Hann", window="blackman"),
    mistake("Povey window: Kaldi's default window, Hann to the power of 0.85", window="povey"),
    mistake(
        "square root of Hann: the window of overlap-add synthesis: the root of Hann",
        window="sqrt_hann",
    ),
    mistake("no window: the frames are not windowed at all", window=None),
    mistake(
        "normalised STFT: the transform is divided by sqrt(400), or the power by 400: "
        "torch.stft(normalized=True), norm='ortho', the periodogram of tutorials",
        spectrum_scale=1 / 20,
    ),
    mistake(
        "divided by n_fft: the transform is divided by 400, as inverse or 'forward' normalised "
        "transforms are",
        spectrum_scale=1 / 400,
    ),
    mistake(
        "divided by the window's sum: the transform is divided by 200, the window's sum: "
        "scipy.signal.stft's scaling",
        spectrum_scale=1 / 200,
    ),
    mistake(
        "divided by the window's norm: the transform is divided by the root of the window's "
        "energy: torchaudio's normalized=True",
        spectrum_scale=1 / math.sqrt(150),
    ),
    mistake(
        "magnitude: the magnitude is used where the power, its square, is meant: librosa's power=1",
        power=1.0,
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
    mistake("log2: log2 where log10 is meant: everything 3.3 times", log_base=2.0),
    mistake(
        "decibels: 10 log10, as librosa.power_to_db gives it; the clamp at 8 then cuts at 8 dB",
        log_factor=10.0,
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
    mistake("offset left out: x / 4 where (x + 4) / 4 is meant", offset=0.0),
    mistake(
        "tail of zeros: the features are filled up with 0.0 after the clip; padding the waveform "
        "gives what silence gives",
        seen="openai-whisper's transcribe, mlx-whisper, faster-whisper, sherpa-onnx",
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
]
