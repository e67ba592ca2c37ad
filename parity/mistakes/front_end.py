"""The front-end entries up to the spectrum, in the order in which the signal meets each decision.

Each entry changes fields of `melfront.Convention`. From the power on the decisions are in
`mel_and_log.py`; `presets.py` has what whole libraries do, `chunks.py` what comes of working chunk
by chunk.
"""

from __future__ import annotations

import math

from melfront.conventions import HOP_LENGTH

from .entry import mistake

# Mistakes with a tensor and not with a decision: `diagnosis` looks for them at every stage.
RESHAPED = mistake(
    "reshaped, not transposed: the numbers are right and their places wrong: memory of (rows, "
    "columns) is read as (columns, rows), as after a reshape where a transposition is meant, or a "
    "column-major array saved as a row-major one"
)

ROWS_SWAPPED = mistake(
    "clips of the batch swapped: each clip's numbers are right, and stand where another clip's "
    "should"
)

WAVEFORM = [
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
        "padded twice: half a window is mirrored at the edges by hand and again by the transform's "
        "centring: everything is 200 samples late",
        pad_twice=True,
    ),
    mistake(
        "WAV header read as samples: the 44 bytes before the samples are read as 22 samples more",
        seen="np.fromfile, fread and includes of a .wav file",
        read="header",
    ),
    mistake(
        "22 samples lost: 44 bytes are skipped once more after the WAV header was skipped already",
        skip=22,
    ),
    mistake("44 samples lost: 44 samples are skipped where the WAV header has 44 bytes", skip=44),
    mistake(
        "bytes swapped: the 16-bit samples are read with their two bytes the wrong way round",
        read="big-endian",
    ),
    mistake(
        "unsigned int16: the signed 16-bit samples are read as unsigned ones, less 32,768",
        read="unsigned",
    ),
    mistake("8-bit samples: the samples keep 8 bits of their 16", read="8-bit"),
    mistake(
        "scaled twice: samples that were in -1 .. 1 already are divided by 32,768", gain=1 / 32768
    ),
    mistake(
        "half as loud: the samples are divided by 65,536, or one channel of two is halved "
        "and the other left out",
        gain=0.5,
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
        "pre-emphasis of the padded clip: x[n] - 0.97 x[n - 1] after padding to 30 s, with a last "
        "click where the clip ends",
        padded_preemphasis=0.97,
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
    mistake("brought to an rms of 1: the clip is divided by its root mean square", normalize="rms"),
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
        "one sample early: frame f starts at sample 160 f - 201: a window that counts from -1",
        frame_start=-201,
    ),
    mistake(
        "one frame late: frame f starts at sample 160 f - 360: a hop of history is put before the "
        "clip",
        frame_start=-360,
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
        "n_fft 1024: window and transform are 1024 samples long, as vocoders have them",
        n_fft=1024,
        win_length=1024,
    ),
    mistake("window of 20 ms: the window is 320 samples long, 20 ms, not 25", win_length=320),
    mistake(
        "mean of each frame removed: the mean of each frame is taken off before the window: "
        "Kaldi's remove_dc_offset",
        frame_mean=True,
    ),
    mistake(
        "pre-emphasis of each frame: x[n] - 0.97 x[n - 1] within each frame, whose first sample "
        "counts as its own predecessor: Kaldi's",
        frame_preemphasis=0.97,
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
    mistake(
        "window applied twice: the frames are windowed by hand and again by the transform",
        window="squared_hann",
    ),
    mistake("triangular window: a triangle (Bartlett) instead of Hann", window="triangle"),
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
        "divided by 512: the transform is divided by the root of 512, or the power by 512",
        spectrum_scale=1 / math.sqrt(512),
    ),
    mistake(
        "angles rounded to float32: the angles 2 pi k n / 400 of a transform that is written out "
        "are rounded to float32 before their sine is taken; reduce k n modulo 400 first",
        angles="rounded",
    ),
    mistake(
        "angles in float32: the angles of a transform that is written out are computed in float32, "
        "in C, Rust or WGSL; reduce k n modulo 400 first",
        angles="float32",
    ),
]
