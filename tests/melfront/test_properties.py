"""Properties that hold for any waveform and every backend."""

from concurrent.futures import ThreadPoolExecutor

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import melfront
from tests.other_fft import device_of
from tests.signals import ARRAYS, Signal, compute, signals

PER_ITEM = ["transformers", "transformers-numpy", "openai-transcribe", "faster-whisper"]
# A few roundings of numbers up to 1.5.
ULPS = 1e-6


def from_another_batch(backend, features, clip, options) -> float:
    """The largest difference between a clip's features alone and in a batch of another size.

    A GPU may use another FFT for it, with an error of the same size: see from_torch_path.
    """
    if backend in (*ARRAYS, "cpu"):
        return ULPS
    error = np.abs(features - melfront.variants.log_mel(clip, **options)).max()
    return max(3e-5, 2.1 * error)


@given(seed=st.integers(0, 2**32 - 1), hops=st.integers(1, 7))
@settings(max_examples=10)
def test_a_shift_of_160_samples_shifts_one_frame(backend, seed, hops):
    # The middle is loud, so both have the same maximum.
    clip = Signal("noise", 8_009, seed).array() * np.hanning(8_009).astype(np.float32)
    before = 1e-3 * Signal("noise", 160 * hops, seed + 1).array()
    shifted = np.concatenate([before, clip])
    options = {"n_mels": 37, "pad_to": None}
    one, other = compute(clip, backend, **options), compute(shifted, backend, **options)
    # The first two frames reflect the edge of the unshifted clip, the last two that of both.
    inside = slice(2, -2)
    assert np.abs(one[:, inside] - other[:, hops:][:, inside]).max() <= ULPS


@given(gain=st.sampled_from([0.25, 0.5, 2.0, 3.0]), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_a_gain_adds_half_its_logarithm(backend, gain, seed):
    """Power grows with gain squared: 2 log10(gain) / 4. White noise spans less than 80 dB."""
    clip = Signal("noise", 8_009, seed, scale=0.1).array()
    options = {"n_mels": 37, "pad_to": None, "convention": "transformers-numpy"}
    quiet, loud = compute(clip, backend, **options), compute(gain * clip, backend, **options)
    # 3 * clip in float32 is itself rounded.
    assert np.abs(loud - quiet - np.log10(gain) / 2).max() <= 2 * ULPS


@given(st.lists(signals(2.0), min_size=2, max_size=4), st.sampled_from([None, 2.903]))
@settings(max_examples=6)
@pytest.mark.parametrize("convention", PER_ITEM)
def test_a_batch_is_its_clips_one_by_one(backend, convention, clips, pad_to):
    audio = [clip.array() for clip in clips]
    longest = max(len(clip) for clip in audio)
    if pad_to is None:
        if longest < 201:
            return
        pad_to = longest / 16_000  # the meaning of None in a batch
    options = {"n_mels": 37, "convention": convention, "pad_to": pad_to}
    batch = compute(audio, backend, **options)
    for clip, features in zip(audio, batch, strict=True):
        alone = compute(clip, backend, **options)
        if backend in ARRAYS:
            assert np.array_equal(features, alone)
        bound = from_another_batch(backend, alone, clip, options)
        assert np.abs(features - alone).max() <= bound


def test_in_openai_a_batch_is_one(backend):
    loud, quiet = Signal("speech", 16_001, 5).array(), 1e-3 * Signal("noise", 12_007).array()
    options = {"n_mels": 37, "convention": "openai", "pad_to": 1.5}
    batch = compute([loud, quiet], backend, **options)
    alone = compute(loud, backend, **options)
    bound = from_another_batch(backend, alone, loud, options)
    assert np.abs(batch[0] - alone).max() <= bound
    assert np.abs(batch[1] - compute(quiet, backend, **options)).max() > 0.5


def test_2d_array_is_a_batch(backend):
    clips = np.stack([Signal("speech", 9_001, seed).array() for seed in (3, 5, 7)])
    batch = compute(clips, backend, n_mels=37, pad_to=1.0)
    assert batch.shape == (3, 37, 100)
    assert np.array_equal(batch, compute(list(clips), backend, n_mels=37, pad_to=1.0))
    # A batch of one stays a batch.
    assert compute(clips[:1], backend, n_mels=37, pad_to=1.0).shape == (1, 37, 100)


@given(signals(3.0))
@settings(max_examples=6)
@pytest.mark.parametrize("convention", ["transformers", "transformers-numpy", "openai"])
def test_skipping_the_silent_tail_is_computing_it(backend, convention, signal):
    clip = signal.array()
    whole = np.pad(clip, (0, 64_000 - len(clip)))
    options = {"n_mels": 37, "convention": convention, "pad_to": 4.0}
    skipped, computed = compute(clip, backend, **options), compute(whole, backend, **options)
    bound = from_another_batch(backend, skipped, clip, options)
    assert np.abs(skipped - computed).max() <= bound


@pytest.mark.parametrize("convention", ["transformers", "transformers-numpy"])
def test_two_minutes(backend, convention):
    """More than one block, and not a whole number of blocks."""
    clip = Signal("speech", 1_920_077, seed=3).array()
    options = {"n_mels": 37, "pad_to": None, "convention": convention}
    ours = compute(clip, backend, **options)
    truth = melfront.variants.log_mel(clip, **options)
    assert ours.shape == truth.shape == (37, 12_000)
    exact = backend in ARRAYS or convention == "transformers-numpy"
    assert np.abs(ours - truth).max() <= (ULPS if exact else 1e-4)  # 1e-4: float32 FFT, speech


@pytest.mark.parametrize("n_mels", [1, 2, 7, 40, 201, 257])
def test_any_number_of_bins(backend, n_mels):
    clip = Signal("speech", 9_001, seed=3).array()
    ours = compute(clip, backend, n_mels=n_mels, pad_to=1.0, convention="transformers-numpy")
    truth = melfront.oracle.log_mel(clip, n_mels=n_mels, pad_to=1.0)
    assert ours.shape == (n_mels, 100)
    assert np.abs(ours - truth).max() <= ULPS


@pytest.mark.parametrize("n_mels", [0, -1])
def test_invalid_n_mels(backend, n_mels):
    with pytest.raises(ValueError, match=f"n_mels={n_mels}"):
        compute(np.zeros(401, np.float32), backend, n_mels=n_mels)


def test_input_is_not_modified(backend):
    import torch

    clip = Signal("speech", 9_001, seed=3).array()
    arrays = backend in ARRAYS
    given_ = clip.copy() if arrays else torch.tensor(clip, device=backend)
    melfront.log_mel(given_, compiled=backend != "numpy")
    melfront.log_mel([given_, given_[:777]], convention="openai", compiled=backend != "numpy")
    assert np.array_equal(given_ if arrays else given_.cpu().numpy(), clip)


def test_results_do_not_share_memory(backend):
    clips = [Signal("speech", n, seed=3).array() for n in (9_001, 64_007, 200)]
    options = {"n_mels": 37, "pad_to": 4.1}
    results = [compute(clip, backend, **options) for clip in clips]
    kept = [result.copy() for result in results]
    for clip, result, before in zip(clips, results, kept, strict=True):
        again = compute(clip, backend, **options)
        assert np.array_equal(again, before)
        assert np.array_equal(result, before)
        again[:] = 0
    assert np.array_equal(compute(clips[0], backend, **options), kept[0])


def test_strided_and_big_endian_input(backend):
    import torch

    clip = Signal("speech", 9_001, seed=3).array()
    expected = compute(clip, backend)
    twice = np.repeat(clip, 2)
    if backend in ARRAYS:
        unaligned = np.frombuffer(b"x" + clip.tobytes(), clip.dtype, offset=1)
        for same in (twice[::2], twice[::2].astype(">f4"), unaligned, clip.astype(np.float64)):
            assert np.array_equal(compute(same, backend), expected)
    else:
        strided = torch.tensor(twice, device=backend)[::2]
        if backend == "cpu":
            strided.requires_grad_()
        with device_of(backend):
            ours = melfront.log_mel(strided)
        assert np.array_equal(ours.detach().cpu().numpy(), expected)


def test_repeated_and_concurrent_calls_give_the_same_bits(backend):
    clips = [Signal("speech", n, seed=n).array() for n in (16_001, 48_017, 9_001, 129_607)]

    def work(i):
        return compute(clips[i % 4], backend, n_mels=37 + i % 3, pad_to=9.0)

    expected = [work(i) for i in range(12)]
    with ThreadPoolExecutor(8) as pool:
        for i, result in enumerate(pool.map(work, list(range(12)) * 3)):
            assert np.array_equal(result, expected[i % 12])
