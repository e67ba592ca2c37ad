"""The filter bank and the mel scale against librosa and openai-whisper's file."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from melfront import filterbank, oracle


@pytest.mark.parametrize("n_mels", [1, 2, 7, 40, 80, 128, 201, 257])
def test_librosa(n_mels):
    librosa = pytest.importorskip("librosa")

    with np.testing.suppress_warnings() as quiet:
        quiet.filter(UserWarning, message="Empty filters")  # more bins than frequencies
        theirs = librosa.filters.mel(sr=16_000, n_fft=400, n_mels=n_mels, dtype=np.float64)
    ours = filterbank.mel_filters(n_mels)
    assert ours.shape == theirs.shape == (n_mels, 201)
    # The same formula in a different order: a few roundings of weights up to 0.026.
    assert np.abs(ours - theirs).max() <= 1e-16 + 1e-15 * theirs.max()
    assert np.array_equal(ours != 0, theirs != 0)


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({"scale": "htk"}, {"htk": True}),
        ({"norm": None}, {"norm": None}),
        ({"sampling_rate": 22_050, "n_fft": 512}, {"sr": 22_050, "n_fft": 512}),
        ({"f_min": 20.0, "f_max": 7_600.0}, {"fmin": 20.0, "fmax": 7_600.0}),
    ],
)
def test_librosa_with_other_options(options, theirs):
    librosa = pytest.importorskip("librosa")

    default = {"sr": 16_000, "n_fft": 400, "fmin": 0.0, "fmax": 8_000.0}
    expected = librosa.filters.mel(**{**default, **theirs}, n_mels=37, dtype=np.float64)
    assert np.abs(filterbank.mel_filters(37, **options) - expected).max() <= 1e-14


@pytest.mark.parametrize("n_mels", [80, 128])
def test_openai_whisper(n_mels):
    """openai-whisper stores librosa's filters in float32."""
    whisper = pytest.importorskip("whisper")

    with np.load(Path(whisper.__file__).parent / "assets" / "mel_filters.npz") as file:
        theirs = file[f"mel_{n_mels}"]
    ours = filterbank.mel_filters(n_mels)
    assert theirs.dtype == np.float32
    assert np.array_equal(ours != 0, theirs != 0)
    # librosa fills a float32 array and then scales it: two roundings.
    assert np.abs(ours - theirs).max() <= 2 * np.spacing(theirs.max())
    assert (np.abs(ours - theirs) <= 1.5 * np.spacing(theirs)).all()


def test_assumptions_of_the_backends():
    bank = filterbank.mel_filters(128)
    assert bank.dtype == np.float64
    assert np.count_nonzero(bank) == 394
    assert (bank != 0).sum(axis=0).max() == 2  # at most two triangles per frequency
    assert bank.any(axis=1).all()
    assert not bank[:, 0].any()  # 0 Hz
    assert not bank[:, 200].any()  # 8000 Hz
    assert bank[:, 1:200].any(axis=0).all()
    assert (bank >= 0).all()
    assert not filterbank.mel_filters(80)[:, [0, 200]].any()
    with pytest.raises(ValueError, match="read-only"):
        bank[0, 0] = 1


@given(st.floats(0, 8_000), st.sampled_from(["slaney", "htk"]))
def test_mel_scale_round_trip(hz, scale):
    mel = filterbank.hz_to_mel(hz, scale)
    assert filterbank.mel_to_hz(mel, scale) == pytest.approx(hz, rel=1e-12, abs=1e-9)


def test_mel_scale_is_librosas():
    librosa = pytest.importorskip("librosa")

    hz = np.linspace(0, 8_000, 997)
    assert np.allclose(filterbank.hz_to_mel(hz), librosa.hz_to_mel(hz), rtol=1e-14)
    # The scale is linear below 1000 Hz and logarithmic above.
    assert filterbank.hz_to_mel(1_000.0) == pytest.approx(15)


@pytest.mark.parametrize(
    "options", [{"n_mels": 0}, {"n_mels": -3}, {"f_min": -1.0}, {"f_min": 8_000.0}]
)
def test_bad_options(options):
    with pytest.raises(ValueError, match="expected at least one bin and 0 <= f_min < f_max"):
        filterbank.mel_filters(**options)


def test_oracle_uses_these_filters():
    assert np.array_equal(oracle.mel(np.eye(201), 80), filterbank.mel_filters(80))
