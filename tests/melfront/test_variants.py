"""Every field of `Convention` has an effect at its stage, and the defaults match the oracle."""

import dataclasses
from dataclasses import fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

import melfront
from melfront import oracle, variants
from melfront.conventions import CONVENTIONS, STAGES, TRANSFORMERS, Convention, check_stages
from tests.signals import Signal, signals


@given(
    st.lists(signals(40.0, min_samples=201), min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from([80, 128]),
    st.sampled_from([30.0, None]),
)
def test_default_matches_the_oracle_bit_for_bit(batch, alone, n_mels, pad_to):
    clips = [signal.array() for signal in batch]
    audio = clips[0] if alone else clips
    options = {"n_mels": n_mels, "pad_to": pad_to, "truncate": True}
    truth, ours = oracle.trace(audio, **options), variants.trace(audio, **options)
    assert tuple(ours) == tuple(truth) == STAGES
    for stage, tensor in truth.items():
        assert ours[stage].dtype == tensor.dtype, stage
        assert np.array_equal(ours[stage], tensor), stage


@pytest.mark.parametrize("name", ["hamming", "blackman"])
def test_other_windows(name):
    from scipy.signal import get_window

    ours = variants.window(replace(TRANSFORMERS, window=name))
    assert np.allclose(ours, get_window(name, 400), rtol=0, atol=1e-15)


@pytest.mark.parametrize("convention", ["transformers", "transformers-numpy", "openai"])
@pytest.mark.parametrize("n", [1, 401, 16_001])
def test_silence(convention, n):
    silence = np.zeros(n, dtype=np.float32)
    for pipeline in (variants.log_mel, melfront.log_mel):
        assert (pipeline(silence, convention=convention) == -1.5).all()
    assert (melfront.log_mel(torch.from_numpy(silence), convention=convention) == -1.5).all()


def test_tap_replaces_a_stage():
    clip = Signal("noise", 3_001).array().astype(np.float64) / 10
    louder = variants.log_mel(clip, tap=lambda stage, x: 100 * x if stage == "power" else x)
    assert np.allclose(louder[:, :19], variants.log_mel(10 * clip)[:, :19], rtol=0, atol=1e-12)


def test_edges_of_the_sample_distinguish_reflection_from_zeros(sample):
    right = variants.log_mel(sample, pad_to=None)
    wrong = variants.log_mel(
        sample, pad_to=None, convention=replace(TRANSFORMERS, pad_mode="constant")
    )
    assert np.abs(right - wrong)[:, 0].max() > 0.1
    assert np.abs(right - wrong)[:, -1].max() > 0.01


# Other values of every field, which must change the output. For a Literal, all of its values.
OTHER: dict[str, list[Any]] = {
    "gain": [32_768.0, 0.5],
    "preemphasis": [0.97],
    "padded_preemphasis": [0.97],
    "normalize": ["mean", "variance", "peak", "rms"],
    "pad_side": ["left"],
    "extra_padding": [160, 480],
    "hop_length": [200],
    "n_fft": [512],
    "win_length": [320],
    "frame_start": [0, -80],
    "pad_mode": ["constant", "edge", "symmetric"],
    "edges_first": [True],
    "drop": ["first", "last_after_max", None],
    "window": ["hamming", "blackman", "povey", "sqrt_hann", "squared_hann", "triangle", None],
    "periodic": [False],
    "power": [1.0],
    "spectrum_scale": [1 / 20],
    "spectrum_part": ["real", "imaginary"],
    "folded": [True],
    "f_min": [20.0],
    "f_max": [7_600.0],
    "filter_rate": [22_050],
    "mel_scale": ["htk"],
    "mel_norm": ["sum", "peak", None],
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
    "output_mean": ["bin", "bin_unbiased", "bin_mean", "frame", "item", "range"],
    "fill": [0.0, -1.5],
    "read": ["header", "big-endian", "unsigned", "8-bit"],
    "skip": [22],
    "own_length": [True],
    "pad_twice": [True],
    "chunk": [10, 25],
    "frame_mean": [True],
    "frame_preemphasis": [0.97],
    "angles": ["rounded", "float32"],
    "corners": ["floor", "floor_n_fft", "round"],
    "straight_in_mels": [True],
    "logarithm": [False],
    "max_chunk": [10, 25],
    "max_running": [True],
    "max_subtracted": [True],
    "unwritten": [8],
}
# These do not change values in float64.
ELSEWHERE = {"name", "precision"}


def probes() -> list[dict[str, Any]]:
    """Inputs that together depend on every field."""
    speech = Signal("speech", 12_007, seed=3).array()
    noise = 1e-3 * Signal("noise", 7_001).array()
    # Near-silence, then a click so late that only the dropped frame covers all of it.
    late = Signal("noise", 16_000, scale=1e-4).array()
    late[-1] = 5.0
    full = Signal("speech", 16_000, seed=11).array()
    return [
        {"audio": [speech, noise], "pad_to": 1.0},
        {"audio": full, "pad_to": 1.0},
        {"audio": late, "pad_to": None},
        {"audio": late, "pad_to": 2.0},
        {"audio": speech, "pad_to": None},
        # A tone whose frames span more than 80 dB.
        {"audio": Signal("tone", 9_001, seed=1).array(), "pad_to": None},
    ]


def outputs(convention: Convention) -> list[np.ndarray]:
    return [
        variants.log_mel(probe["audio"], pad_to=probe["pad_to"], n_mels=41, convention=convention)
        for probe in probes()
    ]


def differ(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return any(
        x.shape != y.shape or not np.abs(x - y).max() <= 1e-6 for x, y in zip(a, b, strict=True)
    )


def test_every_field_has_non_default_values():
    names = {f.name for f in fields(Convention)}
    assert set(OTHER) == names - ELSEWHERE
    for name, hint in get_type_hints(Convention).items():
        if get_origin(hint) is Literal and name in OTHER:
            choices = {*get_args(hint), getattr(TRANSFORMERS, name)}
            assert {getattr(TRANSFORMERS, name), *OTHER[name]} == choices, name


@pytest.mark.parametrize("name", OTHER)
def test_every_value_of_a_field_changes_the_output(name):
    seen = [outputs(TRANSFORMERS)]
    for value in OTHER[name]:
        assert value != getattr(TRANSFORMERS, name)
        result = outputs(replace(TRANSFORMERS, **{name: value}))
        for other, what in zip(seen, ["the default", *OTHER[name]], strict=False):
            assert differ(result, other), f"{name}={value!r} gives the same output as {what!r}"
        seen.append(result)


@pytest.mark.parametrize("name", OTHER)
def test_field_names_the_first_stage_that_it_changes(name):
    (stage,) = (f.metadata["stage"] for f in fields(Convention) if f.name == name)
    for value in OTHER[name]:
        found = set()
        for probe in probes():
            before = variants.trace(**probe, n_mels=41)
            after = variants.trace(
                **probe, n_mels=41, convention=replace(TRANSFORMERS, **{name: value})
            )
            same = [np.array_equal(before[stage], after[stage]) for stage in STAGES]
            found |= {STAGES[same.index(False)]} if not all(same) else set()
        assert min(found, key=STAGES.index) == stage, f"{name}={value!r}"


def test_field_without_a_stage_is_an_error():
    @dataclasses.dataclass(frozen=True)
    class More(Convention):
        mel_gain: float = 1.0

    with pytest.raises(TypeError, match=r"Convention\.mel_gain names no stage; .* padded, fr"):
        check_stages(More())


def test_precision_only_affects_torch():
    clip = Signal("chord", 16_001).array()
    truth = variants.log_mel(clip, convention="transformers-numpy")
    assert np.array_equal(truth, variants.log_mel(clip))
    tensor = torch.from_numpy(clip).requires_grad_()
    single = melfront.log_mel(tensor).detach().numpy()
    double = melfront.log_mel(tensor, convention="transformers-numpy").detach().numpy()
    assert np.abs(double - truth).max() < 2e-7 < np.abs(single - truth).max()


def test_conventions():
    assert all(name == convention.name for name, convention in CONVENTIONS.items())
    assert TRANSFORMERS.changes() == {}
    assert CONVENTIONS["openai"].changes() == {"max_scope": "batch"}
    assert hash(TRANSFORMERS) == hash(Convention())
    with pytest.raises(dataclasses.FrozenInstanceError):
        TRANSFORMERS.gain = 2.0  # type: ignore[misc]  # it is frozen


def test_padding_of_openai_transcribe_and_faster_whisper():
    """They fill the tail with 0.0, transformers with silence: the largest difference in use."""
    clip = Signal("speech", 16_001, seed=5).array()
    ours = variants.log_mel(clip)
    for name in ("openai-transcribe", "faster-whisper"):
        filled = variants.log_mel(clip, convention=name)
        assert (filled[:, 100:] == 0).all()
        assert np.allclose(filled[:, :100], ours[:, :100], rtol=0, atol=1e-12)
    assert (ours[:, 105:] < -0.4).all()


@pytest.mark.parametrize(
    "change", [{"drop": "lsat"}, {"mel_scale": "HTK"}, {"mel_norm": "Slaney"}, {"pad_side": None}]
)
def test_invalid_value_of_a_field(change):
    ((field, word),) = change.items()
    with pytest.raises(ValueError, match=f"{field}={word!r}; expected one of '"):
        replace(TRANSFORMERS, **change)


@pytest.mark.parametrize("words", [{"scale": "HTK"}, {"norm": "Slaney"}])
def test_unknown_mel_scale_or_norm(words):
    with pytest.raises(ValueError, match=r"expected scale 'slaney' or 'htk', norm 'slaney' or"):
        melfront.mel_filters(80, **words)


@pytest.mark.parametrize("pipeline", [melfront.log_mel, variants.log_mel])
def test_unknown_convention(pipeline):
    with pytest.raises(ValueError, match=r"unknown convention 'kaldi'.*transformers, .*openai"):
        pipeline(np.zeros(401), convention="kaldi")


def test_unnamed_convention_is_only_for_comparing():
    odd = replace(TRANSFORMERS, periodic=False)
    assert variants.log_mel(np.zeros(401), convention=odd).shape == (128, 3_000)
    with pytest.raises(ValueError, match=r"periodic.*False.*only melfront\.variants\.log_mel"):
        melfront.log_mel(np.zeros(401), convention=odd)
    # A named convention, passed as an object
    named = CONVENTIONS["openai"]
    assert melfront.log_mel(np.zeros(401), convention=named).shape == (128, 3_000)


def test_seven_mantissa_bits_match_bfloat16():
    x = torch.from_numpy(Signal("noise", 9_001).array()) * torch.logspace(-30, 30, 9_001)
    assert torch.equal(variants.round_mantissa(x, 7), x.bfloat16().float())
    assert np.array_equal(variants.round_mantissa(x.numpy(), 7), x.bfloat16().float())
    assert variants.round_mantissa(x.bfloat16(), 3).dtype == torch.bfloat16
