"""The codelets of the kernel, as plain Python, each against the definition of what it computes."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

pytest.importorskip("numba")

from melfront import CONVENTIONS, oracle
from melfront.backends import kernel, numba_backend
from melfront.backends.kernel import COLUMNS, GROUP, LANES, N_GROUPS
from melfront.conventions import TRANSFORMERS
from tests.signals import Signal

# Sums of up to 400 products in float64.
ROUNDING = 1e-13
rng = np.random.default_rng(1)


def dft(x: np.ndarray) -> np.ndarray:
    """X[k] = sum over n of x[n] e^(-2 pi i k n/N), along the first axis."""
    n = np.arange(len(x))
    return np.exp(-2j * np.pi * np.outer(n, n) / len(x)) @ x


def complex_rows(n: int) -> np.ndarray:
    return rng.normal(size=(n, LANES)) + 1j * rng.normal(size=(n, LANES))


def in_turn(x: np.ndarray) -> list[np.ndarray]:
    """Real and imaginary parts in turn, as the codelets take and give them."""
    return [part for row in x for part in (row.real, row.imag)]


@pytest.mark.parametrize(("codelet", "n"), [(kernel.dft4, 4), (kernel.dft5, 5)])
def test_complex_codelets(codelet, n):
    x = complex_rows(n)
    assert np.abs(np.array(codelet(*in_turn(x))) - in_turn(dft(x))).max() <= ROUNDING * n


def test_real_codelet():
    x = rng.normal(size=(5, LANES))
    zero, *others = in_turn(dft(x)[:3])
    assert np.abs(np.array(kernel.real_dft5(*x)) - [zero, *others[1:]]).max() <= ROUNDING * 5


def test_rotated():
    x = complex_rows(1)
    turned = x[0] * np.exp(-2j * np.pi * 0.3)
    ours = kernel.rotated(x[0].real, x[0].imag, kernel.cosine(0.3), kernel.sine(0.3))
    assert np.abs(np.array(ours) - in_turn(turned[None])).max() <= ROUNDING


def test_dft25():
    x = rng.normal(size=(25, LANES)).astype(np.float32)
    window = rng.normal(size=25)
    places = rng.permutation(25)
    samples = np.empty(25 * LANES, np.float32)
    for row, place in zip(x, places, strict=True):
        samples[place * LANES :][:LANES] = row
    q = np.empty(26 * LANES)
    kernel.dft25(samples, places * LANES, window, q)
    expected = in_turn(dft(x * window[:, None])[list(COLUMNS)])
    assert np.abs(q.reshape(26, LANES) - expected).max() <= ROUNDING * 25


def test_power_of_dft16():
    x = complex_rows(16)
    q = np.zeros(N_GROUPS * GROUP)
    rows = q.reshape(N_GROUPS, GROUP)
    rows[:, :LANES], rows[:, LANES : 2 * LANES] = x.real, x.imag
    kernel.power_of_dft16(q)
    expected = np.abs(dft(x)) ** 2
    for k in range(16):  # see the docstring
        ours = rows[4 * (k % 4) + k // 4, :LANES]
        assert np.abs(ours - expected[k]).max() <= ROUNDING * expected.max()


def test_power_of_dft400():
    """All of it, with the tables that the backend makes for it, against NumPy's transform."""
    frames = rng.normal(size=(LANES, 400)).astype(np.float32)
    places = np.array([numba_backend.sample_number(i) for i in range(400)])
    window = oracle.window()[places]
    q = np.empty(N_GROUPS * GROUP)
    kernel.power_of_dft400(frames.T.ravel(), places * LANES, window, q)
    expected = oracle.power(oracle.spectrum(frames * oracle.window()))  # (LANES, 201)
    rows = q.reshape(-1, LANES)
    ours = np.array([rows[numba_backend.row_of_frequency(k)] for k in range(201)])
    assert np.abs(ours.T - expected).max() <= ROUNDING * expected.max()
    assert np.abs(dft(frames.T * oracle.window()[:, None])[:201].T).max() > 10  # no trivial case


def test_feature():
    """Six roundings of half an ulp: a constant, two products and three sums."""
    power = np.geomspace(1e-10, 1e30, 100_003).astype(np.float32)
    features = kernel.feature(power)
    assert features.dtype == np.float32
    expected = (np.log10(power.astype(np.float64)) + 4) / 4
    error = np.abs(features - expected)
    # What is rounded on the way is at most a seventh larger than the feature, or below 1.
    ulp = np.spacing((1.15 * np.maximum(np.abs(expected), 1)).astype(np.float32))
    assert (error <= 3 * ulp).all()
    assert error[expected < 2].max() <= 5e-7  # all features of audio in [-1, 1]
    assert kernel.feature(power[123]) == features[123]


@given(n=st.integers(1, 900), total=st.integers(201, 900), first=st.integers(-200, 700))
@settings(max_examples=200)
def test_copy_reflected(n, total, first):
    n = min(n, total)
    clip = np.arange(1.0, n + 1)
    padded = np.pad(np.pad(clip, (0, total - n)), 200, mode="reflect")
    segment = np.full(320, np.nan)
    kernel.copy_reflected(clip, total, first, segment)
    beyond = np.zeros(1_000)  # zeros where nothing is heard
    expected = np.concatenate([padded, beyond])[first + 200 :][:320]
    assert np.array_equal(segment, expected)


def test_turn():
    samples = np.arange(7 * 160.0)
    turned = np.zeros(160 * kernel.ROW)
    kernel.turn(samples, 7, turned)
    assert np.array_equal(turned.reshape(160, kernel.ROW)[:, :7], samples.reshape(7, 160).T)


def test_every_convention_has_the_constants_that_are_compiled_in():
    compiled = (TRANSFORMERS.log_floor, TRANSFORMERS.offset, TRANSFORMERS.divisor)
    assert {(c.log_floor, c.offset, c.divisor) for c in CONVENTIONS.values()} == {compiled}


@pytest.mark.parametrize("n_mels", [1, 80, 128, 300])
def test_tables_are_the_filter_bank(n_mels):
    """Each row of weights, put back to its frequencies. 300 bins have empty filters."""
    _, _, starts, rows, weights = numba_backend.tables(n_mels)
    frequency = {numba_backend.row_of_frequency(k): k for k in range(201)}
    bank = np.zeros((n_mels, 201))
    for m in range(n_mels):
        for i in range(starts[m], starts[m + 1]):
            bank[m, frequency[rows[i]]] += weights[i]
    assert len(frequency) == 201
    assert np.array_equal(bank, numba_backend.mel_filters(n_mels))


def test_lanes_do_not_mix():
    """A loud frame leaves the bits of its quiet neighbours alone."""
    quiet = 1e-4 * Signal("noise", 64 * 160 + 400, seed=2).array()
    loud = quiet.copy()
    loud[40 * 160 : 41 * 160] = 0.9
    ours = [computed(clip) for clip in (quiet, loud)]
    assert np.array_equal(ours[0][:, :38], ours[1][:, :38])
    assert not np.array_equal(ours[0][:, 38:43], ours[1][:, 38:43])
    assert np.array_equal(ours[0][:, 43:64], ours[1][:, 43:64])


def computed(clip: np.ndarray) -> np.ndarray:
    """The features of 64 frames before the clamp."""
    features = np.empty((80, LANES), np.float32)
    first, _ = numba_backend.kernels(clip.dtype)
    scratch = numba_backend.scratch(clip.dtype)
    first(clip, len(clip), LANES, features, *numba_backend.tables(80), *scratch)
    return features
