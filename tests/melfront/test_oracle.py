"""The oracle, stage by stage, against torch and plain sums in float64."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

import melfront
from melfront import oracle
from tests.signals import Signal, signals


def dft(x):
    """The discrete Fourier transform as a sum over n: (..., N) -> (..., K)."""
    n = np.arange(x.shape[-1])
    k = np.arange(x.shape[-1] // 2 + 1)
    return x @ np.exp(-2j * np.pi * np.outer(n, k) / len(n))


@given(st.integers(2, 41), st.integers(0, 2**32 - 1))
def test_spectrum_is_a_plain_sum(n, seed):
    x = np.random.default_rng(seed).uniform(-1, 1, (3, n))
    assert np.allclose(dft(x), oracle.spectrum(x), rtol=0, atol=1e-13 * n)


def test_spectrum_of_a_frame():
    x = np.random.default_rng(5).uniform(-1, 1, (7, 400))
    assert np.allclose(dft(x), oracle.spectrum(x), rtol=0, atol=1e-11)


def test_window():
    window = oracle.window()
    assert np.allclose(window, torch.hann_window(400, dtype=torch.float64), rtol=0, atol=1e-15)
    assert window[0] == 0
    assert window[200] == 1
    assert window[1] == pytest.approx(window[399], rel=1e-10)
    assert np.abs(np.hanning(400) - window).max() == pytest.approx(6e-3, rel=0.1)


@pytest.mark.parametrize("n", [1, 401, 16_001])
def test_silence(n):
    assert (oracle.log_mel(np.zeros(n, dtype=np.float32)) == -1.5).all()


def test_stages():
    clip = Signal("noise", 3_001).array()
    stages = oracle.trace(clip, n_mels=7, pad_to=None)
    shapes = {name: tensor.shape for name, tensor in stages.items()}
    assert list(shapes.items()) == [
        ("padded", (3_401,)),
        ("frames", (18, 400)),
        ("windowed", (18, 400)),
        ("spectrum", (18, 201)),
        ("power", (18, 201)),
        ("mel", (7, 18)),
        ("log", (7, 18)),
        ("clamped", (7, 18)),
        ("features", (7, 18)),
    ]
    dtypes = {name: tensor.dtype for name, tensor in stages.items()}
    assert dtypes.pop("spectrum") == np.complex128
    assert set(dtypes.values()) == {np.dtype(np.float64)}


def test_stages_of_a_batch():
    clips = [Signal("noise", n).array() for n in (1_009, 3_001, 211)]
    batch = oracle.trace(clips, n_mels=7, pad_to=None)
    assert batch["padded"].shape == (3, 3_401)
    assert batch["frames"].shape == (3, 18, 400)
    assert batch["features"].shape == (3, 7, 18)
    one = oracle.trace(clips[1], n_mels=7, pad_to=None)
    for name, tensor in one.items():
        assert np.allclose(batch[name][1], tensor, rtol=0, atol=1e-12), name


@pytest.mark.parametrize("n", [0, 1, 150, 200, 201, 1_000, 1_600, 1_799, 1_800, 2_800, 3_000])
def test_frame_f_covers_samples_160f_minus_200_to_160f_plus_199(n):
    length = 3_001
    clip = Signal("noise", length).array()
    other = clip.copy()
    other[n] += 0.5
    before, after = (oracle.trace(x, n_mels=7, pad_to=None)["frames"] for x in (clip, other))
    changed = np.flatnonzero((before != after).any(axis=1))

    # The sample itself and its mirror images about samples 0 and 3000.
    images = {n, -n, 2 * (length - 1) - n}
    covered = [any(160 * f - 200 <= i <= 160 * f + 199 for i in images) for f in range(18)]
    assert changed.tolist() == np.flatnonzero(covered).tolist()


def test_frames_that_depend_on_the_sample(sample):
    mel = oracle.trace(sample, n_mels=80)["mel"]
    assert len(sample) == 129_600
    assert melfront.frame_mask(len(sample)).sum() == 810
    assert (mel[:, 811] > 0).all()
    assert (mel[:, 812:] == 0).all()


# transformers' formula with torch.stft in float64: a different FFT and different framing.


def stft_formula(waveform, n_mels):
    window = torch.hann_window(400, dtype=torch.float64)
    stft = torch.stft(waveform, 400, 160, window=window, return_complex=True)
    power = stft[..., :-1].abs() ** 2
    log = (torch.tensor(melfront.mel_filters(n_mels)) @ power).clamp(min=1e-10).log10()
    return (torch.maximum(log, log.amax((-2, -1), keepdim=True) - 8) + 4) / 4


@given(signals(3.0, min_samples=201))
def test_torch_stft_in_float64(signal):
    clip = signal.array().astype(np.float64)
    theirs = stft_formula(torch.from_numpy(clip), 13).numpy()
    assert np.abs(oracle.log_mel(clip, n_mels=13, pad_to=None) - theirs).max() <= 1e-9


def test_oracle_accepts_the_input_of_log_mel():
    clips = [torch.from_numpy(Signal("noise", n).array()).requires_grad_() for n in (1_009, 3_001)]
    from_tensors = oracle.log_mel(clips, n_mels=7, pad_to=0.3, sampling_rate=16_000)
    arrays = [clip.detach().numpy() for clip in clips]
    assert np.array_equal(from_tensors, oracle.log_mel(arrays, n_mels=7, pad_to=0.3))
    with pytest.raises(melfront.AudioError, match="8000 Hz"):
        oracle.log_mel(arrays, sampling_rate=8_000)
