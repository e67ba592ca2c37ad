"""The compiled front end: vector code, threads, what it refuses, and what is left to NumPy."""

import io
import platform
import re
import sys
import time
from unittest.mock import patch

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings

pytest.importorskip("numba")

import melfront
from melfront import for_arrays
from melfront.backends import numba_backend, numpy_backend
from tests.signals import Signal, compute

CONVENTIONS = list(melfront.CONVENTIONS)
F4 = np.dtype(np.float32)


def threads(n: int):
    return patch.object(numba_backend, "most_threads", lambda: n)


def test_llvm_found_the_vectors():
    """Sums and products of doubles in the machine code: of several at once, or of one."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        vector, scalar = r"\bv?(add|sub|mul)pd\b", r"\bv?(add|sub|mul)sd\b"
    elif platform.machine().lower() in ("aarch64", "arm64"):
        vector, scalar = r"\bf(add|sub|mul)(\.2d|\s+v)", r"\bf(add|sub|mul)\s+d"
    else:
        pytest.skip(f"no pattern for the machine code of {platform.machine()}")
    first, _ = numba_backend.compiled_by(False, F4)
    (code,) = first.inspect_asm().values()
    n_vector, n_scalar = len(re.findall(vector, code)), len(re.findall(scalar, code))
    # What is left of a loop is scalar: for five kinds of x86 25 to 58 operations, 6 to 13 % of the
    # vectors. With NUMBA_LOOP_VECTORIZE=0 there are 257 to 443, and no vectors.
    assert n_vector >= 200
    assert n_scalar <= n_vector / 4


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_any_number_of_threads_gives_the_same_bits(convention):
    lengths = (9_001, 480_017, 201, 319_999, 640_007)
    clips = [Signal("speech", n, seed=n).array() for n in lengths]
    options = {"n_mels": 37, "pad_to": 41, "convention": convention}
    with threads(1):
        expected = melfront.log_mel(clips, **options)
    with threads(8):
        assert np.array_equal(melfront.log_mel(clips, **options), expected)


def test_how_many_threads_a_batch_takes():
    seen = set()

    def work(i):
        seen.add(numba_backend.threading.get_ident())
        time.sleep(0.05)
        return i

    for allowed, n_frames, taken in ((5, 3000, 4), (2, 3000, 2), (5, 510, 2)):
        seen.clear()
        with threads(allowed):
            assert numba_backend.for_each_clip(work, [n_frames] * 4) == [0, 1, 2, 3]
        assert len(seen) == taken
    for allowed, n_frames in ((1, 3000), (5, 400)):  # not allowed; not worth it
        seen.clear()
        with threads(allowed):
            assert numba_backend.for_each_clip(work, [n_frames] * 4) == [0, 1, 2, 3]
        assert seen == {numba_backend.threading.get_ident()}


def test_torch_may_ask_for_fewer_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert numba_backend.most_threads() == 1
    finally:
        torch.set_num_threads(before)


@given(hops=st.integers(1, 70), seed=st.integers(0, 99))
@settings(max_examples=10)
def test_frames_do_not_depend_on_their_place(hops, seed):
    """Shifted by whole frames, and so to other lanes, the same samples give the same bits."""
    clip = Signal("speech", 40_009, seed).array()
    clip[:400] = 0
    shifted = np.concatenate([np.zeros(160 * hops, np.float32), clip])
    one, other = melfront.log_mel(clip, pad_to=10), melfront.log_mel(shifted, pad_to=10)
    assert np.array_equal(one[:, 2:253], other[:, 2 + hops : 253 + hops])


def test_samples_of_an_earlier_tile_do_not_count():
    """The lanes of the last tile that have no frame keep old samples, and silence before them.

    A tone that turns round at every hop nearly cancels in every frame, but not next to silence.
    """
    t = np.arange(66 * 160)
    hop = (t + 200) // 160
    loudness = np.interp(hop, [0, 6, 30, 60], [0, 1, 1, 0])
    clip = (0.5 * loudness * (-1.0) ** hop * np.sin(2 * np.pi * t * 3 / 16)).astype(np.float32)
    truth = melfront.oracle.log_mel(clip, pad_to=1.0)
    assert np.abs(melfront.log_mel(clip, pad_to=1.0) - truth).max() <= 5e-7


# What it refuses, and what NumPy computes


@given(
    n=st.integers(1, 60_000),
    where=st.floats(0, 1),
    value=st.sampled_from([np.nan, -np.nan, np.inf, -np.inf, 11.0, -32768.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
    pad_to=st.sampled_from([None, 1.0]),
    convention=st.sampled_from(CONVENTIONS),
)
# After the last hop of 64 frames, and of 128; in what is cut.
@example(10_240, 1.0, np.nan, np.float32, None, "transformers")
@example(20_500, 1.0, 11.0, np.float64, None, "openai")
@example(60_000, 0.9, np.inf, np.float32, 1.0, "transformers")
@settings(max_examples=200)
def test_a_bad_sample_anywhere_is_refused(n, where, value, dtype, pad_to, convention):
    """In frames, in the rest after them, at an edge, or in what truncate=True cuts."""
    n = max(n, 401)
    clip = np.zeros(n, dtype)
    clip[min(n - 1, int(where * n))] = value
    for audio in (clip, [np.zeros(500, dtype), clip]):
        options = {"n_mels": 5, "pad_to": pad_to, "truncate": True}
        with pytest.raises(melfront.AudioError) as caught:
            melfront.log_mel(audio, convention=convention, **options)
        with pytest.raises(melfront.AudioError) as expected:
            melfront.oracle.log_mel(audio, **options)
        assert str(caught.value) == str(expected.value)


@pytest.mark.parametrize("gain", [1e3, 1e14, 1e16, 1e18, 1e25])
def test_without_a_check_of_the_range(gain):
    """Louder than float32 can square, NumPy takes over. As oracle, relative to the features."""
    clip = (gain * Signal("speech", 9_001, seed=3).array()).astype(np.float32)
    ours = melfront.log_mel(clip, pad_to=1.0, check_range=False)
    truth = melfront.oracle.log_mel(clip, pad_to=1.0, check_range=False)
    assert np.abs(ours - truth).max() <= 2 * np.spacing(np.float32(truth.max()))
    with pytest.raises(melfront.AudioError, match="far outside"):
        melfront.log_mel(clip, pad_to=1.0)


def test_other_floats_and_integers():
    clip = Signal("speech", 9_001, seed=3).array()
    pcm = np.round(clip * 32767).astype(np.int16)
    assert np.array_equal(melfront.log_mel(pcm), melfront.log_mel(pcm / np.float32(32768)))
    half = clip.astype(np.float16)
    assert np.array_equal(melfront.log_mel(half), melfront.log_mel(half.astype(np.float32)))
    locked = clip.copy()
    locked.flags.writeable = False
    assert np.array_equal(melfront.log_mel(locked), melfront.log_mel(clip))


# Where it is not used, and while it compiles


def chosen(**environment):
    for_arrays.cache_clear()
    try:
        with patch.dict("os.environ", environment):
            return for_arrays(True)
    finally:
        for_arrays.cache_clear()


def test_the_backend_for_arrays():
    assert chosen() is numba_backend.log_mel
    assert chosen(NUMBA_DISABLE_JIT="1") is numpy_backend.log_mel
    assert for_arrays(False) is numpy_backend.log_mel
    name = "melfront.backends.numba_backend"
    with patch.dict(sys.modules, {"numba": None}):
        package = sys.modules["melfront.backends"]
        kept = sys.modules.pop(name), vars(package).pop("numba_backend")
        try:
            assert chosen() is numpy_backend.log_mel
        finally:
            sys.modules[name] = package.numba_backend = kept[0]


def test_without_a_cache(monkeypatch):
    """Where numba finds no folder to write to, it raises RuntimeError."""

    def njit(cache, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(cache=cache, **options)

    real = numba_backend.numba.njit
    monkeypatch.setattr(numba_backend.numba, "njit", njit)
    first, _ = numba_backend.kernels.__wrapped__(F4)
    clip = Signal("speech", 9_001).array()
    expected = compute(clip, "numba")
    monkeypatch.setattr(numba_backend, "kernels", lambda dtype: (first, _))
    assert np.array_equal(compute(clip, "numba"), expected)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_long_wait_is_explained_on_a_terminal(monkeypatch):
    for stream, seconds, said in ((Terminal(), 1.3, True), (Terminal(), 0, False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with numba_backend.said_if_it_takes_long():
            time.sleep(seconds)
        assert ("compiling" in stream.getvalue()) is said
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with numba_backend.said_if_it_takes_long():
        time.sleep(1.3)
    assert stream.getvalue() == ""
