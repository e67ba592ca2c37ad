"""The example front ends for a CPU against the oracle, at lengths that the harness does not try."""

import importlib
import os
import shutil

import numpy as np
import pytest

from melfront import oracle

# Sums in float64 leave the logarithm in float32: 4 ulp of a feature, all of which are below 2 here.
# Next to such a tone, sums in float32 are a hundred times as far off.
BOUND = 4 * np.spacing(np.float32(1))


@pytest.fixture(scope="module", params=["log_mel_c", "log_mel_numba"])
def log_mel(request):
    if request.param == "log_mel_numba":
        pytest.importorskip("numba")
    elif not shutil.which(compiler := os.environ.get("CC", "cc")):
        pytest.skip(f"no C compiler: {compiler}")
    return importlib.import_module(f"melfront.benchmarks.examples.{request.param}").log_mel


def clip(n):
    """A loud tone that ends in the middle, and noise that is 54 dB quieter."""
    tone = np.sin(np.arange(n) * 0.37) * (np.arange(n) <= n // 2)
    noise = np.random.default_rng(n).standard_normal(n)
    return (0.9 * tone + 2e-3 * noise).astype(np.float32)


@pytest.mark.parametrize("n_mels", [80, 128, 300])  # of 300 filters some are empty
@pytest.mark.parametrize("n", [1, 8_000, 479_900, 480_000])  # the last two are mirrored at 30 s
def test_agrees_with_the_oracle_alone_and_in_a_batch(log_mel, n, n_mels):
    clips = np.stack([clip(n), -1e-3 * clip(n)[::-1]])
    truths = [oracle.log_mel(x, n_mels=n_mels) for x in clips]
    together = log_mel(clips, n_mels)
    assert together.dtype == np.float32
    for x, features, truth in zip(clips, together, truths, strict=True):
        error = np.abs(features - truth).max()
        assert error <= BOUND
        assert np.array_equal(log_mel(x, n_mels), features)
