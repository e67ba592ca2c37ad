"""Our features against those of installed libraries, computed here.

The bounds and their reasons. The truth is the oracle, in float64.

- A float32 FFT has an error at every frequency of about 1e-7 of the loudest one. 80 dB below a loud
  tone, where features are clamped, that is 1e-3 of the amplitude and 2e-4 of the feature. This is
  the error of transformers' torch path on chords; on speech it is 1e-5 to 4e-5. The exact figure
  depends on the FFT and so on the CPU: MKL has one for AVX2, one for AVX-512 and others, all
  correct. So we measure it here against transformers' own NumPy path.
- Our torch backend, for what is recorded, uses the same FFT and the same float32 window. It is
  within 2 or 3 ulp of transformers (at most 2.4e-7 in all our fuzzing), so a bound of 3e-5 holds
  for every signal.
- Our NumPy backend computes in float64 and rounds its features once: half an ulp of a float32 below
  4 is 1.2e-7. It is within 1e-6 of transformers' NumPy path, and as far from the torch path as that
  path is. No correct implementation can be closer.
- Our kernel, numba, takes its logarithm in float32, of three terms: four such roundings, 5e-7.
- Root mean square errors are taken over the frames that overlap the clip; the others are constant.
  The bound is 1.1 times the library's own error, but at least 4 ulp, because below that a single
  rounding decides.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from unittest.mock import patch

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings

import melfront
from melfront.backends.numpy_backend import frames_heard
from melfront.conventions import TRANSFORMERS
from tests.other_fft import device_of
from tests.signals import ARRAYS, Signal, compute, floor, rms, signals

FROM_TORCH_PATH = 3e-5
FROM_NUMPY_PATH = 1e-6
FROM_TRUTH = {"numpy": 1.3e-7, "numba": 5e-7}
MORE_THAN_THEIRS = 1.1

N_MELS = st.sampled_from([80, 128])
# Seconds. 2.903 s is not a multiple of a frame; None keeps the clip's own length.
PAD_TO = st.sampled_from([None, 2.903, 5.03])
LONGEST = 6.0


@lru_cache(maxsize=2)
def extractor(n_mels: int):
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=n_mels)


def transformers(audio, n_mels, pad_to=30.0, path="torch", backend="numpy"):
    """Features and attention mask of a clip or a list of clips from one of transformers' paths.

    `backend` selects the device; those of arrays mean the CPU.
    """
    import transformers.models.whisper.feature_extraction_whisper as module

    logging.getLogger("transformers").setLevel(logging.ERROR)
    options = {"padding": "longest", "truncation": False}
    if pad_to is not None:
        options = {"padding": "max_length", "max_length": round(pad_to * 16_000)}
    with (
        patch.object(module, "is_torch_available", lambda: path == "torch"),
        device_of(backend) as device,
    ):
        out = extractor(n_mels)(
            audio,
            sampling_rate=16_000,
            return_attention_mask=True,
            return_tensors="np",
            device=device,
            **options,
        )
    features, mask = out["input_features"], out["attention_mask"]
    return (features, mask) if isinstance(audio, list) else (features[0], mask[0])


def fits(n: int, pad_to: float | None) -> bool:
    """Whether transformers can reflect the clip's edges, which takes 201 samples."""
    return pad_to is not None or n > 200


def from_torch_path(backend: str, theirs: np.ndarray, exact: np.ndarray) -> float:
    """The largest difference that our features may have from transformers' torch path.

    `exact` comes from its NumPy path: the difference of the two does not depend on our code.
    """
    their_max = float(np.abs(theirs - exact).max())
    if backend in ARRAYS:
        return their_max + FROM_NUMPY_PATH
    if backend == "cpu":
        return FROM_TORCH_PATH
    # The device may use another FFT for our blocks: two equally good results.
    return max(FROM_TORCH_PATH, (1 + MORE_THAN_THEIRS) * their_max)


def check_against_transformers(backend, signal, n_mels, pad_to):
    audio = signal.array()
    options = {"n_mels": n_mels, "pad_to": pad_to, "truncate": True}
    theirs, _ = transformers(audio, n_mels, pad_to, backend=backend)
    ours = compute(audio, backend, **options)
    truth = melfront.oracle.log_mel(audio, **options)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == np.float32

    if backend in ARRAYS:
        assert np.abs(ours - truth).max() <= FROM_TRUTH[backend]
    exact, _ = transformers(audio, n_mels, pad_to, path="numpy")
    assert np.abs(ours - theirs).max() <= from_torch_path(backend, theirs, exact)

    heard = frames_heard(signal.n, 160 * truth.shape[1], TRANSFORMERS)
    our_error = rms((ours - truth)[:, :heard])
    their_error = rms((theirs - truth)[:, :heard])
    assert our_error <= MORE_THAN_THEIRS * max(their_error, floor(truth))


@given(signal=signals(LONGEST), n_mels=N_MELS, pad_to=PAD_TO)
@example(Signal("chord", 31_803, 3157098035), 80, 5.03)  # differ by 3e-4 in plain float32
@example(Signal("clicks", 484, 1020666635), 128, 5.03)  # the float32 window near its edge
@settings(max_examples=30)
def test_transformers_torch_path(backend, signal, n_mels, pad_to):
    assume(fits(signal.n, pad_to))
    check_against_transformers(backend, signal, n_mels, pad_to)


@pytest.mark.slow
@given(signal=signals(40.0), n_mels=N_MELS, pad_to=st.sampled_from([None, 30.0, 2.903]))
@settings(max_examples=60)
def test_transformers_torch_path_long(backend, signal, n_mels, pad_to):
    assume(fits(signal.n, pad_to))
    check_against_transformers(backend, signal, n_mels, pad_to)


@pytest.mark.parametrize(
    ("kind", "n", "pad_to"),
    [("speech", 627_901, 30.0), ("speech", 480_000, 30.0), ("noise", 500_009, None)],
)
def test_transformers_torch_path_30_s_and_more(backend, kind, n, pad_to):
    check_against_transformers(backend, Signal(kind, n, seed=7), 128, pad_to)


def check_numpy_path(backend, signal, n_mels, pad_to):
    audio = signal.array()
    theirs, _ = transformers(audio, n_mels, pad_to, path="numpy")
    options = {"n_mels": n_mels, "pad_to": pad_to, "truncate": True}
    ours = compute(audio, backend, convention="transformers-numpy", **options)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= FROM_NUMPY_PATH  # 2.4e-7 measured, 2 ulp


@given(signal=signals(LONGEST), n_mels=N_MELS, pad_to=PAD_TO)
def test_transformers_numpy_path(backend, signal, n_mels, pad_to):
    assume(fits(signal.n, pad_to))
    check_numpy_path(backend, signal, n_mels, pad_to)


@pytest.mark.slow
@given(signal=signals(40.0), n_mels=N_MELS, pad_to=st.sampled_from([None, 30.0, 2.903]))
@settings(max_examples=40)
def test_transformers_numpy_path_long(backend, signal, n_mels, pad_to):
    assume(fits(signal.n, pad_to))
    check_numpy_path(backend, signal, n_mels, pad_to)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_sample_speech(backend, n_mels, sample):
    """Speech padded to 30 s, by both measures, without the floor of 4 ulp."""
    check_speech(backend, n_mels, sample)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_jfk(backend, n_mels, jfk_path):
    check_speech(backend, n_mels, melfront.load_audio(jfk_path))


def check_speech(backend, n_mels, audio):
    theirs, _ = transformers(audio, n_mels, backend=backend)
    exact, _ = transformers(audio, n_mels, path="numpy")
    ours = compute(audio, backend, n_mels=n_mels)
    truth = melfront.oracle.log_mel(audio, n_mels=n_mels)
    assert np.abs(ours - theirs).max() <= from_torch_path(backend, theirs, exact)
    assert rms(ours - truth) <= MORE_THAN_THEIRS * rms(theirs - truth)


@given(
    clips=st.lists(signals(3.0), min_size=2, max_size=4),
    n_mels=N_MELS,
    pad_to=PAD_TO,
)
@example([Signal("chord", 14_400, seed=139_006), Signal("dc", 118, seed=759)], 128, 5.03)
@settings(max_examples=8)
def test_transformers_batch(backend, clips, n_mels, pad_to):
    """Clips of different length and loudness: each has its own maximum."""
    assume(fits(max(clip.n for clip in clips), pad_to))
    audio = [clip.array() for clip in clips]
    options = {"n_mels": n_mels, "pad_to": pad_to, "truncate": True}
    theirs, _ = transformers(audio, n_mels, pad_to, backend=backend)
    exact, _ = transformers(audio, n_mels, pad_to, path="numpy")
    ours = compute(audio, backend, **options)
    assert ours.shape == theirs.shape
    bound = np.maximum(FROM_TORCH_PATH, 2.1 * np.abs(theirs - exact).max(axis=(1, 2)))
    assert (np.abs(ours - theirs).max(axis=(1, 2)) <= bound).all()
    ours = compute(audio, backend, convention="transformers-numpy", **options)
    assert np.abs(ours - exact).max() <= FROM_NUMPY_PATH


# openai-whisper uses torch, so it is as close to our torch backend as transformers is. It differs
# from our NumPy backend by at most its own float32 error, its difference from the oracle.


def within_noise(ours, theirs, truth, backend):
    their_max = np.abs(theirs - truth).max()
    assert ours.shape == theirs.shape
    if backend == "cpu":
        assert np.abs(ours - theirs).max() <= FROM_TORCH_PATH
    else:
        slack = FROM_TRUTH.get(backend, MORE_THAN_THEIRS * their_max)
        assert np.abs(ours - theirs).max() <= max(FROM_TORCH_PATH, their_max + slack)


@given(clips=st.lists(signals(3.0), min_size=1, max_size=3), n_mels=N_MELS)
@example([Signal("chord", 14_400, seed=139_006)], 128)
@settings(max_examples=5)
def test_openai(backend, clips, n_mels):
    """log_mel_spectrogram(pad_or_trim(audio)): one maximum for the whole batch."""
    whisper = pytest.importorskip("whisper")

    audio = [clip.array() for clip in clips]
    padded = torch.stack([whisper.pad_or_trim(torch.tensor(clip)) for clip in audio])
    with device_of(backend) as device:
        theirs = whisper.log_mel_spectrogram(padded, n_mels, device=device).cpu().numpy()
    ours = compute(audio, backend, n_mels=n_mels, convention="openai")
    truth = melfront.variants.log_mel(audio, n_mels=n_mels, convention="openai")
    within_noise(ours, theirs, truth, backend)


@given(signal=signals(7.0), n_mels=N_MELS)
@example(Signal("speech", 480_000), 80)
@settings(max_examples=4)
def test_openai_transcribe(backend, signal, n_mels):
    """Like whisper.transcribe: append 30 s of zeros, keep content frames, fill the tail with 0."""
    whisper = pytest.importorskip("whisper")

    audio = signal.array()
    padding = whisper.audio.N_SAMPLES
    with device_of(backend) as device:
        mel = whisper.log_mel_spectrogram(audio, n_mels, padding, device).cpu()
    content_frames = mel.shape[-1] - whisper.audio.N_FRAMES
    theirs = whisper.pad_or_trim(mel[:, :content_frames], whisper.audio.N_FRAMES).numpy()
    options = {"n_mels": n_mels, "convention": "openai-transcribe"}
    truth = melfront.variants.log_mel(audio, **options)
    within_noise(compute(audio, backend, **options), theirs, truth, backend)

    if fits(signal.n, None):
        ours = compute(audio, backend, pad_to=None, **options)
        theirs = mel[:, :content_frames].numpy()
        within_noise(ours, theirs, truth[:, :content_frames], backend)


@given(signal=signals(7.0), n_mels=N_MELS)
@example(Signal("speech", 480_000), 80)
@settings(max_examples=6)
def test_faster_whisper(backend, signal, n_mels):
    """Like WhisperModel.transcribe: drop the frame of the extra hop, fill the tail with 0.0."""
    pytest.importorskip("faster_whisper")
    from faster_whisper.audio import pad_or_trim
    from faster_whisper.feature_extractor import FeatureExtractor

    audio = signal.array()
    assume(signal.n + 160 > 200)  # too short to reflect, even with its extra hop
    features = FeatureExtractor(feature_size=n_mels)(audio)
    content_frames = features.shape[-1] - 1
    theirs = pad_or_trim(features[:, :content_frames])
    options = {"n_mels": n_mels, "convention": "faster-whisper"}
    truth = melfront.variants.log_mel(audio, **options)
    ours = compute(audio, backend, **options)
    assert ours.shape == theirs.shape
    # Its FFT is not torch's: two float32 results, which differ by at most the sum of their errors.
    their_max, our_max = np.abs(theirs - truth).max(), np.abs(ours - truth).max()
    assert np.abs(ours - theirs).max() <= max(FROM_TORCH_PATH, their_max + our_max)
    assert np.abs(theirs - truth).max() <= 1e-3  # it computes the same thing
    assert our_max <= FROM_TRUTH.get(backend, our_max)


@pytest.mark.parametrize("beyond", [0, 39, 40, 120, 159])
@pytest.mark.parametrize("batched", [False, True])
def test_faster_whisper_maximum_excludes_the_missing_frame(backend, beyond, batched):
    """The clip ends loudly: if there were a frame after the extra hop, it would be the loudest."""
    pytest.importorskip("faster_whisper")
    from faster_whisper.feature_extractor import FeatureExtractor

    audio = Signal("noise", 16_000 + beyond, scale=1e-4).array()
    audio[-1] = 0.9
    theirs = FeatureExtractor(feature_size=80)(audio)[:, :100]
    clips = [audio, np.full(32_001, 0.5, dtype=np.float32)] if batched else [audio]
    options = {"n_mels": 80, "convention": "faster-whisper"}
    recorded = [torch.from_numpy(clip).requires_grad_() for clip in clips]
    for features in (
        melfront.variants.log_mel(clips, **options),
        compute(clips, backend, **options),
        melfront.log_mel(recorded, **options).detach().numpy(),
    ):
        # Correct results differ by 3e-7 here; including that frame would change them by 0.06.
        assert np.abs(features[0, :, :100] - theirs).max() <= FROM_TORCH_PATH
        assert (features[0, :, 100:] == 0).all()


@given(signal=signals(LONGEST, min_samples=401), n_mels=N_MELS)
@settings(max_examples=10)
def test_librosa(backend, signal, n_mels):
    """librosa's mel spectrogram with reflected edges, then Whisper's logarithm."""
    librosa = pytest.importorskip("librosa")

    audio = signal.array()
    stft = librosa.stft(
        audio.astype(np.float64), n_fft=400, hop_length=160, window="hann", pad_mode="reflect"
    )
    bank = librosa.filters.mel(sr=16_000, n_fft=400, n_mels=n_mels, dtype=np.float64)
    mel = bank @ np.abs(stft[:, :-1]) ** 2
    log = np.log10(np.maximum(mel, 1e-10))
    theirs = (np.maximum(log, log.max() - 8) + 4) / 4
    truth = melfront.oracle.log_mel(audio, n_mels=n_mels, pad_to=None)
    assert np.abs(truth - theirs).max() <= 1e-9  # both in float64
    ours = compute(audio, backend, n_mels=n_mels, pad_to=None, convention="transformers-numpy")
    assert np.abs(ours - theirs).max() <= FROM_TRUTH.get(backend, FROM_TRUTH["numpy"])
