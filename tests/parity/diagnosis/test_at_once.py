"""Three and four mistakes at once, chunks of any length, and what is not to be named.

The ports are written here, apart from `variants`, as somebody would write them.
"""

from dataclasses import replace

import numpy as np
import pytest

from melfront import parity, variants
from melfront.conventions import TRANSFORMERS
from melfront.parity import signals
from tests.parity import ports

CLIP = signals.piece(24_017)
LENGTH, N_MELS = 32_000, 80  # samples, bins


def names(features, clip=CLIP):
    mine = {"features": np.asarray(features, np.float32)}
    report = parity.compare(mine, audio=clip, n_mels=N_MELS, pad_to=LENGTH / 16_000)
    return [{e.name for e in n.entries} for n in report.diagnosis.named], report


def mel(x, mode="reflect"):
    """Mel power of every frame of x, the last one too: (M, F)."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(x, 200, mode=mode), 400)[::160]
    return ports.bank(N_MELS) @ np.abs(np.fft.rfft(frames * ports.HANN)).T ** 2


def under(**change):
    convention = replace(TRANSFORMERS, **change)
    return variants.log_mel(CLIP, n_mels=N_MELS, convention=convention, pad_to=LENGTH / 16_000)


def test_padded_after_the_features():
    features = ports.finish(mel(CLIP, "constant"))
    features = np.pad(features, ((0, 0), (0, LENGTH // 160 - features.shape[1])))
    found, report = names(features)
    expected = {"zero padding", "no frame dropped", "features filled up with zeros"}
    assert found == [expected], report
    assert "looks like three mistakes at once" in report.headline()


def test_four_mistakes():
    change = {"mel_scale": "htk", "log_floor": 1e-6, "periodic": False, "divisor": 1.0}
    found, report = names(under(**change))
    four = {"HTK mel scale", "floor of 1e-6", "symmetric window", "not divided by 4"}
    assert found == [four], report


def test_a_third_mistake_that_nobody_knows():
    """Two of three are not named as if they were all, nor others in its stead."""
    found, report = names(under(mel_scale="htk", log_base=np.e, f_max=7_100.0))
    assert found == [], report


CHUNKS = {
    ("reflected", 100): lambda pieces: ports.finish(
        np.concatenate([mel(x)[:, :-1] for x in pieces], 1)
    ),
    ("zeros between", 50): lambda pieces: ports.finish(
        np.concatenate([mel(x, "constant")[:, :-1] for x in pieces], 1)
    ),
    ("reflected, own maximum", 20): lambda pieces: np.concatenate(
        [ports.finish(mel(x)[:, :-1]) for x in pieces], 1
    ),
    ("reflected, no frame dropped", 100): lambda pieces: ports.finish(
        np.concatenate([mel(x) for x in pieces], 1)
    ),
    ("reflected", 17): lambda pieces: ports.finish(
        np.concatenate([mel(x)[:, :-1] for x in pieces], 1)
    ),
}


@pytest.mark.parametrize(("kind", "n"), CHUNKS)
def test_chunks(kind, n):
    x = np.pad(CLIP, (0, LENGTH - len(CLIP)))
    pieces = [x[start : start + 160 * n] for start in range(0, LENGTH, 160 * n)]
    found, report = names(CHUNKS[kind, n](pieces))
    assert {f"chunks of {n} frames, {kind}"} in found, report
    assert len(found) == 1, report
    assert f"{n / 100:g} s" in report.headline()


@pytest.mark.parametrize("running", [False, True])
def test_maximum_of_chunks(running):
    log = np.log10(np.maximum(mel(np.pad(CLIP, (0, LENGTH - len(CLIP))))[:, :-1], 1e-10))
    loudest = [log[:, start : start + 50].max() for start in range(0, log.shape[1], 50)]
    loudest = np.repeat(np.maximum.accumulate(loudest) if running else loudest, 50)
    found, report = names((np.maximum(log, loudest - 8) + 4) / 4)
    kind = "maximum so far" if running else "own maximum"
    assert found == [{f"chunks of 50 frames, {kind}"}], report


def test_last_tile_unwritten():
    features = ports.finish(mel(np.pad(CLIP, (0, LENGTH - len(CLIP))))[:, :-1])
    features[:, 192:] = 0  # of 200 frames, six tiles of 32
    assert names(features)[0] == [{"last frames unwritten"}]
    features[:, 128:] = 0
    found, report = names(features)
    assert found == [{"last frames unwritten"}], report
    assert "the last 72 frames are 0" in report.headline()
