"""Attention masks against those of transformers."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings

import melfront
from tests.melfront.test_libraries import PAD_TO, fits, transformers
from tests.signals import Signal


def masks(audio, **options):
    """The mask, after checking that the NumPy and torch backends agree."""
    _, ours = melfront.log_mel(audio, return_mask=True, **options)
    clips = [torch.tensor(c) for c in audio] if isinstance(audio, list) else torch.tensor(audio)
    _, tensor = melfront.log_mel(clips, return_mask=True, **options)
    assert tensor.dtype == torch.int32
    assert np.array_equal(ours, tensor.numpy())
    return ours


def test_mask_of_the_sample(sample):
    _, theirs = transformers(sample, 80)
    ours = masks(sample, n_mels=80)
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)
    assert ours.shape == (3000,)
    assert ours.sum() == 810
    assert ours[809] == 1
    assert ours[810] == 0


@pytest.mark.parametrize("n", [799, 800, 801])
def test_mask_without_padding(n):
    audio = Signal("noise", n).array()
    features, theirs = transformers(audio, 80, pad_to=None)
    ours = masks(audio, n_mels=80, pad_to=None)
    assert np.array_equal(ours, theirs)
    assert ours.sum() == features.shape[-1] == {799: 4, 800: 5, 801: 5}[n]


@given(lengths=st.lists(st.integers(1, 4_001), min_size=1, max_size=4), pad_to=PAD_TO)
@example([1], 2.903)
@example([160, 161], 2.903)
@settings(max_examples=12)
def test_masks(lengths, pad_to):
    assume(fits(max(lengths), pad_to))
    audio = [Signal("noise", n).array() for n in lengths]
    _, theirs = transformers(audio, 80, pad_to)
    ours = masks(audio, n_mels=80, pad_to=pad_to)
    assert np.array_equal(ours, theirs)
    whole = pad_to is not None  # otherwise the longest clip loses its incomplete last hop
    for n, row in zip(lengths, ours, strict=True):
        assert not whole or row.sum() == -(-n // 160)
