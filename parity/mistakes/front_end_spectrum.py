"""The front-end half of the catalogue, first part: from the waveform to the power.

Each entry changes fields of `melfront.Convention`.
"""

from __future__ import annotations

import math

from melfront.conventions import HOP_LENGTH

from .entry import catalogue, mistake

# A mistake with a tensor and not with a decision: `diagnosis` looks for it at every stage.
(RESHAPED,) = catalogue(
    "padded",
    mistake(
        "reshaped, not transposed",
        "the numbers are right and their places wrong: memory of (rows, columns) is read as "
        "(columns, rows), as after a reshape where a transposition is meant, or a column-major "
        "array saved as a row-major one",
    ),
)

WAVEFORM_TO_POWER = catalogue(
    "padded",
    mistake(
        "zero padding",
        "the edges are padded with zeros, not reflected: librosa's default, and what a "
        "hand-written STFT does when nobody thinks of the edge",
        "librosa.stft defaults; tinygrad examples/whisper.py",
        pad_mode="constant",
    ),
    mistake(
        "edge padding",
        "the edge sample is repeated instead of the waveform reflected",
        pad_mode="edge",
    ),
    mistake(
        "symmetric padding",
        "the reflection repeats the edge sample: NumPy's 'symmetric' where 'reflect' is meant",
        pad_mode="symmetric",
    ),
    mistake(
        "reflected before the padding",
        "the clip's own ends are reflected and the zeros come after: the clip should be padded to "
        "30 s first, so that on the right silence is reflected",
        "fixed in NVIDIA/TensorRT-Model-Connect#1282",
        edges_first=True,
    ),
    mistake(
        "padded on the left",
        "the zeros stand before the clip, as decoders of language models are padded",
        pad_side="left",
    ),
    mistake(
        "a hop of zeros added",
        "160 zeros after the clip, which give one frame more",
        "faster-whisper's FeatureExtractor; its transcribe drops that frame again",
        extra_padding=HOP_LENGTH,
    ),
    mistake(
        "unscaled int16",
        "the samples are 16-bit integers as they were read, 32,768 times too large",
        "transformers' extractor takes int16 arrays so",
        gain=32768.0,
    ),
    mistake(
        "divided by 32767",
        "16-bit samples are divided by 32767 instead of 32768",
        gain=32768 / 32767,
    ),
    mistake(
        "channels added",
        "the two channels of a stereo file are added, not averaged: twice too loud",
        gain=2.0,
    ),
    mistake(
        "pre-emphasis",
        "x[n] - 0.97 x[n - 1], as Kaldi and most speech recognisers before Whisper do",
        preemphasis=0.97,
    ),
    mistake(
        "mean removed",
        "the clip's mean is taken off, as Kaldi's remove_dc_offset does for each frame",
        normalize="mean",
    ),
    mistake(
        "zero mean, unit variance",
        "the clip is normalised as wav2vec2 wants it",
        "transformers' do_normalize=True",
        normalize="variance",
    ),
    mistake(
        "peak normalised",
        "the clip is brought to a maximum of 1, as librosa.util.normalize and audio editors do",
        normalize="peak",
    ),
    mistake(
        "no centring",
        "frame f starts at sample 160 f; it should be centred there and start at 160 f - 200",
        "candle audio.rs; whisper.cpp before #1148",
        frame_start=0,
    ),
    mistake(
        "Kaldi framing",
        "frame f starts at sample 160 f - 120 and the edge samples are repeated: "
        "Kaldi's snip_edges=false",
        "kaldi-native-fbank's and sherpa-onnx's Whisper features",
        frame_start=-120,
        pad_mode="symmetric",
    ),
    mistake(
        "one sample late",
        "frame f starts at sample 160 f - 199: half of 399, or a window that counts from 1",
        frame_start=-199,
    ),
    "frames",
    mistake(
        "first frame dropped",
        "of the 3001 frames the first is dropped, not the last: everything is 10 ms early",
        drop="first",
    ),
    mistake(
        "no frame dropped", "all 3001 frames are kept; the last one should be dropped", drop=None
    ),
    mistake(
        "last frame dropped after the maximum",
        "the 3001st frame still counts for the maximum; it should be dropped before",
        "fixed in NVIDIA/TensorRT-Model-Connect#1282",
        drop="last_after_max",
    ),
    "padded",
    mistake(
        "n_fft 512",
        "the 400-sample window is zero-padded to the next power of two, with filters to match",
        "Kaldi's round_to_power_of_two",
        n_fft=512,
        win_length=400,
    ),
    mistake(
        "window of 512 samples",
        "window and transform are 512 samples long, the next power of two",
        n_fft=512,
        win_length=512,
    ),
    "windowed",
    mistake(
        "symmetric window",
        "the Hann window is symmetric (divided by 399), as numpy.hanning(400) and "
        "scipy.signal.windows.hann give it; it should be periodic (divided by 400)",
        periodic=False,
    ),
    mistake("Hamming window", "a Hamming window instead of Hann", window="hamming"),
    mistake("Blackman window", "a Blackman window instead of Hann", window="blackman"),
    mistake("Povey window", "Kaldi's default window, Hann to the power of 0.85", window="povey"),
    mistake(
        "square root of Hann",
        "the window of overlap-add synthesis: the root of Hann",
        window="sqrt_hann",
    ),
    mistake("no window", "the frames are not windowed at all", window=None),
    "spectrum",
    mistake(
        "normalised STFT",
        "the transform is divided by sqrt(400), or the power by 400: torch.stft(normalized=True), "
        "norm='ortho', the periodogram of tutorials",
        spectrum_scale=1 / 20,
    ),
    mistake(
        "divided by n_fft",
        "the transform is divided by 400, as inverse or 'forward' normalised transforms are",
        spectrum_scale=1 / 400,
    ),
    mistake(
        "divided by the window's sum",
        "the transform is divided by 200, the window's sum: scipy.signal.stft's scaling",
        spectrum_scale=1 / 200,
    ),
    mistake(
        "divided by the window's norm",
        "the transform is divided by the root of the window's energy: torchaudio's normalized=True",
        spectrum_scale=1 / math.sqrt(150),
    ),
    "power",
    mistake(
        "magnitude",
        "the magnitude is used where the power, its square, is meant: librosa's power=1",
        power=1.0,
    ),
    mistake(
        "folded spectrum",
        "the mirrored half of the spectrum is added, which doubles the power of bins 1 .. 199",
        "candle audio.rs; whisper.cpp before #1148",
        folded=True,
    ),
    mistake(
        "real part only",
        "the real part is squared and the imaginary part forgotten",
        spectrum_part="real",
    ),
)
