"""The float64 pipeline, stage by stage, and every field of `Convention`."""

import dataclasses
from dataclasses import fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

import melfront
from melfront import oracle
from melfront.conventions import CONVENTIONS, TRANSFORMERS, Convention
from tests.signals import Signal, signals


@given(st.integers(2, 41), st.integers(0, 2**32 - 1))
def test_dft_is_what_rfft_computes(n, seed):
    x = np.random.default_rng(seed).uniform(-1, 1, (3, n))
    assert np.allclose(oracle.dft(x), np.fft.rfft(x), rtol=0, atol=1e-13 * n)


def test_dft_of_a_frame():
    x = np.random.default_rng(5).uniform(-1, 1, (7, 400))
    assert np.allclose(oracle.dft(x), oracle.spectrum(x, TRANSFORMERS), rtol=0, atol=1e-11)


def test_window():
    window = oracle.window(TRANSFORMERS)
    assert np.allclose(window, torch.hann_window(400, dtype=torch.float64), rtol=0, atol=1e-15)
    assert window[0] == 0
    assert window[200] == 1
    assert window[1] == pytest.approx(window[399], rel=1e-10)
    symmetric = oracle.window(replace(TRANSFORMERS, periodic=False))
    assert np.abs(symmetric - window).max() == pytest.approx(6e-3, rel=0.1)


@pytest.mark.parametrize("name", ["hamming", "blackman"])
def test_other_windows(name):
    from scipy.signal import get_window

    ours = oracle.window(replace(TRANSFORMERS, window=name))
    assert np.allclose(ours, get_window(name, 400), rtol=0, atol=1e-15)


@pytest.mark.parametrize("convention", ["transformers", "transformers-numpy", "openai"])
@pytest.mark.parametrize("n", [1, 401, 16_001])
def test_silence(convention, n):
    silence = np.zeros(n, dtype=np.float32)
    for pipeline in (oracle.log_mel, melfront.log_mel):
        assert (pipeline(silence, convention=convention) == -1.5).all()
    assert (melfront.log_mel(torch.from_numpy(silence), convention=convention) == -1.5).all()


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


def test_a_tap_replaces_a_stage():
    clip = Signal("noise", 3_001).array().astype(np.float64) / 10
    louder = oracle.log_mel(clip, tap=lambda stage, x: 100 * x if stage == "power" else x)
    assert np.allclose(louder[:, :19], oracle.log_mel(10 * clip)[:, :19], rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 150, 200, 201, 1_000, 1_600, 1_799, 1_800, 2_800, 3_000])
def test_frame_f_covers_samples_160f_minus_200_to_160f_plus_199(n):
    length = 3_001
    clip = Signal("noise", length).array()
    other = clip.copy()
    other[n] += 0.5
    before, after = (oracle.trace(x, n_mels=7, pad_to=None)["frames"] for x in (clip, other))
    changed = np.flatnonzero((before != after).any(axis=1))

    # The sample itself and its images in the two mirrors, which stand at samples 0 and 3000.
    images = {n, -n, 2 * (length - 1) - n}
    hears = [any(160 * f - 200 <= i <= 160 * f + 199 for i in images) for f in range(18)]
    assert changed.tolist() == np.flatnonzero(hears).tolist()


def test_how_far_the_sample_is_heard(sample):
    mel = oracle.trace(sample, n_mels=80)["mel"]
    assert len(sample) == 129_600
    assert melfront.frame_mask(len(sample)).sum() == 810
    assert (mel[:, 811] > 0).all()
    assert (mel[:, 812:] == 0).all()


def test_the_edges_of_the_sample_tell_reflection_from_zeros(sample):
    right = oracle.log_mel(sample, pad_to=None)
    wrong = oracle.log_mel(
        sample, pad_to=None, convention=replace(TRANSFORMERS, pad_mode="constant")
    )
    assert np.abs(right - wrong)[:, 0].max() > 0.1
    assert np.abs(right - wrong)[:, -1].max() > 0.01


# transformers' formula, written with torch.stft in float64: another FFT, another framing.


def stft_formula(waveform, n_mels):
    window = torch.hann_window(400, dtype=torch.float64)
    stft = torch.stft(waveform, 400, 160, window=window, return_complex=True)
    power = stft[..., :-1].abs() ** 2
    log = (torch.tensor(oracle.filters(TRANSFORMERS, n_mels)) @ power).clamp(min=1e-10).log10()
    return (torch.maximum(log, log.amax((-2, -1), keepdim=True) - 8) + 4) / 4


@given(signals(3.0, min_samples=201))
def test_torch_stft_in_float64(signal):
    clip = signal.array().astype(np.float64)
    theirs = stft_formula(torch.from_numpy(clip), 13).numpy()
    assert np.abs(oracle.log_mel(clip, n_mels=13, pad_to=None) - theirs).max() <= 1e-9


# Conventions

# For every field, the other values that must make a difference; of a Literal, all there are.
OTHER: dict[str, list[Any]] = {
    "gain": [32_768.0, 0.5],
    "preemphasis": [0.97],
    "normalize": ["mean", "variance", "peak"],
    "pad_side": ["left"],
    "extra_padding": [160, 480],
    "hop_length": [200],
    "n_fft": [512],
    "win_length": [320],
    "frame_start": [0, -80],
    "pad_mode": ["constant", "edge", "symmetric"],
    "edges_first": [True],
    "drop": ["first", "last_after_max", None],
    "window": ["hamming", "blackman", "povey", "sqrt_hann", None],
    "periodic": [False],
    "power": [1.0],
    "spectrum_scale": [1 / 20],
    "spectrum_part": ["real"],
    "folded": [True],
    "f_min": [20.0],
    "f_max": [7_600.0],
    "filter_rate": [22_050],
    "mel_scale": ["htk"],
    "mel_norm": [None],
    "bin_shift": [1, -1],
    "flip_mels": [True],
    "mel_mantissa": [10, 7],
    "log_base": [np.e, 2.0],
    "log_factor": [10.0],
    "log_floor": [1e-5, 1e-12],
    "floor_added": [True],
    "max_scope": ["batch", "frame", "bin", None],
    "max_frames": ["clip"],
    "fixed_max": [1.5],
    "dynamic_range": [4.0, 10.0],
    "offset": [3.0],
    "divisor": [1.0],
    "output_mean": ["bin", "item"],
    "fill": [0.0, -1.5],
}
# Not the oracle's business: it always computes in float64.
ELSEWHERE = {"name", "precision"}


def probes() -> list[dict[str, Any]]:
    """Inputs that between them meet every decision."""
    speech = Signal("speech", 12_007, seed=3).array()
    noise = 1e-3 * Signal("noise", 7_001).array()
    # Near-silence, then a click so late that only the frame that is dropped hears all of it.
    late = Signal("noise", 16_000, scale=1e-4).array()
    late[-1] = 5.0
    full = Signal("speech", 16_000, seed=11).array()
    return [
        {"audio": [speech, noise], "pad_to": 1.0},
        {"audio": full, "pad_to": 1.0},
        {"audio": late, "pad_to": None},
        {"audio": late, "pad_to": 2.0},
        {"audio": speech, "pad_to": None},
        # A tone, whose own frames span more than 80 dB.
        {"audio": Signal("tone", 9_001, seed=1).array(), "pad_to": None},
    ]


def outputs(convention: Convention) -> list[np.ndarray]:
    return [
        oracle.log_mel(probe["audio"], pad_to=probe["pad_to"], n_mels=41, convention=convention)
        for probe in probes()
    ]


def differ(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return any(
        x.shape != y.shape or not np.abs(x - y).max() <= 1e-6 for x, y in zip(a, b, strict=True)
    )


def test_every_field_has_other_values_to_try():
    names = {f.name for f in fields(Convention)}
    assert set(OTHER) == names - ELSEWHERE
    for name, hint in get_type_hints(Convention).items():
        if get_origin(hint) is Literal and name in OTHER:
            choices = {*get_args(hint), getattr(TRANSFORMERS, name)}
            assert {getattr(TRANSFORMERS, name), *OTHER[name]} == choices, name


@pytest.mark.parametrize("name", OTHER)
def test_every_value_of_a_field_counts(name):
    seen = [outputs(TRANSFORMERS)]
    for value in OTHER[name]:
        assert value != getattr(TRANSFORMERS, name)
        result = outputs(replace(TRANSFORMERS, **{name: value}))
        for other, what in zip(seen, ["the default", *OTHER[name]], strict=False):
            assert differ(result, other), f"{name}={value!r} computes what {what!r} does"
        seen.append(result)


def test_precision_is_that_of_the_fast_backends():
    clip = Signal("chord", 16_001).array()
    truth = oracle.log_mel(clip, convention="transformers-numpy")
    assert np.array_equal(truth, oracle.log_mel(clip))
    tensor = torch.from_numpy(clip)
    single = melfront.log_mel(tensor).numpy()
    double = melfront.log_mel(tensor, convention="transformers-numpy").numpy()
    assert np.abs(double - truth).max() < 2e-7 < np.abs(single - truth).max()


def test_conventions():
    assert list(CONVENTIONS) == [
        "transformers",
        "transformers-numpy",
        "openai",
        "openai-transcribe",
        "faster-whisper",
    ]
    assert all(name == convention.name for name, convention in CONVENTIONS.items())
    assert TRANSFORMERS.changes() == {}
    assert CONVENTIONS["openai"].changes() == {"max_scope": "batch"}
    assert hash(TRANSFORMERS) == hash(Convention())
    with pytest.raises(dataclasses.FrozenInstanceError):
        TRANSFORMERS.gain = 2.0  # type: ignore[misc]  # it is frozen


def test_the_largest_difference_in_use():
    """openai-transcribe and faster-whisper fill the tail with 0.0, transformers with silence."""
    clip = Signal("speech", 16_001, seed=5).array()
    ours = oracle.log_mel(clip)
    for name in ("openai-transcribe", "faster-whisper"):
        filled = oracle.log_mel(clip, convention=name)
        assert (filled[:, 100:] == 0).all()
        assert np.allclose(filled[:, :100], ours[:, :100], rtol=0, atol=1e-12)
    assert (ours[:, 105:] < -0.4).all()


@pytest.mark.parametrize(
    "change", [{"drop": "lsat"}, {"mel_scale": "HTK"}, {"mel_norm": "Slaney"}, {"pad_side": None}]
)
def test_a_word_that_a_field_does_not_know(change):
    ((field, word),) = change.items()
    with pytest.raises(ValueError, match=f"{field}={word!r}; expected one of '"):
        replace(TRANSFORMERS, **change)


@pytest.mark.parametrize("words", [{"scale": "HTK"}, {"norm": "Slaney"}])
def test_filters_of_an_unknown_scale_or_norm(words):
    with pytest.raises(ValueError, match=r"expected scale 'slaney' or 'htk', norm 'slaney' or"):
        melfront.mel_filters(80, **words)


def test_the_oracle_takes_what_log_mel_takes():
    clips = [torch.from_numpy(Signal("noise", n).array()).requires_grad_() for n in (1_009, 3_001)]
    from_tensors = oracle.log_mel(clips, n_mels=7, pad_to=0.3, sampling_rate=16_000)
    arrays = [clip.detach().numpy() for clip in clips]
    assert np.array_equal(from_tensors, oracle.log_mel(arrays, n_mels=7, pad_to=0.3))
    with pytest.raises(melfront.AudioError, match="8000 Hz"):
        oracle.log_mel(arrays, sampling_rate=8_000)


@pytest.mark.parametrize("pipeline", [melfront.log_mel, oracle.log_mel])
def test_unknown_convention(pipeline):
    with pytest.raises(ValueError, match=r"unknown convention 'kaldi'.*transformers, .*openai"):
        pipeline(np.zeros(401), convention="kaldi")


def test_a_convention_without_a_name_is_for_the_oracle():
    odd = replace(TRANSFORMERS, periodic=False)
    assert oracle.log_mel(np.zeros(401), convention=odd).shape == (128, 3_000)
    with pytest.raises(ValueError, match=r"periodic.*False.*only melfront\.oracle\.log_mel"):
        melfront.log_mel(np.zeros(401), convention=odd)
    # One that is named, given as itself
    named = CONVENTIONS["openai"]
    assert melfront.log_mel(np.zeros(401), convention=named).shape == (128, 3_000)
