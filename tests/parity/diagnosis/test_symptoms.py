"""What is said of wrong numbers that no known mistake explains: each broken in one way."""

import numpy as np
import pytest

from melfront import oracle
from melfront.parity import mistakes
from melfront.parity.diagnosis.match import Candidate
from melfront.parity.diagnosis.symptoms.describe import symptoms
from melfront.parity.noise import rms
from melfront.parity.pipeline import Pipeline
from melfront.parity.signals import sample
from melfront.parity.stages import Stage

CLIP = sample()
PIPELINE = Pipeline(CLIP, n_mels=80, pad_to=9.0)  # 900 frames, the last 90 of them silence
TRUTH = PIPELINE.front_end_truth
GOLD = np.random.default_rng(7)


def look(stage, values, pipeline=PIPELINE, truth=None):
    """The symptoms of a tensor, without the catalogue."""
    stage = Stage(stage)
    truth = TRUTH[stage] if truth is None else truth
    unit = pipeline.floors({stage: truth}, "float32")[stage]
    values = np.asarray(values, np.complex64 if np.iscomplexobj(truth) else np.float32)
    error = rms(values - truth) / unit
    return symptoms(Candidate(pipeline, stage, values, truth, unit, "float32", error, None))


def features_of(mel):
    """Of a mel spectrogram (80, F)."""
    log = np.log10(np.maximum(mel, 1e-10))
    return (np.maximum(log, log.max() - 8) + 4) / 4


def chunks(length, n=144_000):
    """The mel spectrogram made chunk by chunk, each reflected at its own ends."""
    x = np.pad(CLIP, (0, n - len(CLIP))).astype(np.float64)
    parts = [Pipeline(x[i : i + length], n_mels=80, pad_to=None) for i in range(0, n, length)]
    return [part.front_end(upto="mel")["mel"] for part in parts]


def put(stage, where, values):
    """The truth with other values in one place."""
    wrong = TRUTH[stage].copy()
    wrong[where] = values
    return wrong


# What is broken: the stage, the wrong numbers, and what is said of them as the one explanation.
EXACT = {
    "half the gain": (
        "features",
        lambda: features_of(TRUTH["mel"] / 4),
        "every value above the floor is the truth less 0.1505: a power times 0.25, an amplitude "
        "times 0.5",
    ),
    "twice the power": ("power", lambda: 2 * TRUTH["power"], "every value is 2 times the truth"),
    "a shift by one bin": (
        "features",
        lambda: np.roll(TRUTH["features"], 1, 0),
        "mel i is the truth's mel i - 1: 1 mel late",
    ),
    "two frames late": (
        "features",
        lambda: np.pad(TRUTH["features"], ((0, 0), (2, 0)), mode="edge")[:, :-2],
        "frame i is the truth's frame i - 2: 2 frames late",
    ),
    "time runs backwards": (
        "features",
        lambda: TRUTH["features"][:, ::-1],
        "the frames are in reverse order",
    ),
    "an FFT's halves": (
        "features",
        lambda: np.roll(TRUTH["features"], 40, 0),
        "the two halves of the mels are swapped",
    ),
    "frames never written": (
        "features",
        lambda: put("features", np.s_[:, 128:192], 0),
        "64 of 900 frames are bad: 128-191; every value there is 0: never written, or overwritten",
    ),
    "the last tile never written": (
        "features",
        lambda: put("features", np.s_[:, 870:], 0),
        "30 of 900 frames are bad: 870-899: the last 30; every value there is 0: never written, or "
        "overwritten",
    ),
    "garbage in a tile of bins": (
        "features",
        lambda: put("features", np.s_[64:], GOLD.normal(size=(16, 900))),
        "16 of 80 mels are bad: 64-79: the last 16; the values there have nothing in common with "
        "the truth",
    ),
    "each frame twice": (
        "features",
        lambda: np.repeat(TRUTH["features"][:, ::2], 2, 1),
        "are each exactly the one before",
    ),
    "one bin read twice": (
        "features",
        lambda: put("features", 17, TRUTH["features"][18]),
        "mel 17 is the truth's mel 18",
    ),
    "clipped to 1": (
        "features",
        lambda: TRUTH["features"].clip(-1, 0.9),
        "all is right but the bounds: no value is above 0.9",
    ),
    "six decades": (
        "features",
        lambda: np.maximum(TRUTH["features"], TRUTH["features"].max() - 1.5),
        "6 decades under the clip's maximum, not 8",
    ),
    "the other sign": ("windowed", lambda: -TRUTH["windowed"], "every value has the other sign"),
    "exp(+i)": (
        "spectrum",
        lambda: TRUTH["spectrum"].conj(),
        "the imaginary part has the other sign",
    ),
    "each filter on its own scale": (
        "features",
        lambda: features_of(TRUTH["mel"] * np.linspace(0.5, 2, 80)[:, None]),
        "each mel is off by a number of its own",
    ),
    "the mean of each bin": (
        "features",
        lambda: TRUTH["features"] - TRUTH["features"].mean(1, keepdims=True),
        "the mean of each mel is taken off",
    ),
}


@pytest.mark.parametrize("broken", EXACT)
def test_what_explains_all_of_the_error(broken):
    stage, wrong, words = EXACT[broken]
    assert words in look(stage, wrong()).exact


SEEN = {
    "mel per second": (
        lambda: features_of(np.concatenate(chunks(16_000), 1)),
        "the first 2 and the last of every 100",
    ),
    "mel per 100 ms": (
        lambda: features_of(np.concatenate(chunks(1_600), 1)),
        "the first 2 and the last of every 10",
    ),
    "mel per second with its own maximum": (
        lambda: np.concatenate([features_of(mel) for mel in chunks(16_000)], 1),
        "changes with time, as of a maximum of each part",
    ),
    "37 samples late": (
        lambda: late(37),
        "every frame is that of a clip that comes 37 samples late",
    ),
    "a WAV header": (lambda: late(22), "the 44 bytes of a WAV file's header, read as samples"),
    "the mean of each frame": (
        lambda: without_mean(),
        "2 of 80 mels are bad: 0-1: the lowest frequencies, as if a mean were taken off",
    ),
    "dither": (
        lambda: of_clip(CLIP + GOLD.normal(0, 2.0**-15, len(CLIP))),
        "times as far off as the loudest",
    ),
}


def of_clip(clip):
    return Pipeline(clip, n_mels=80, pad_to=9.0).front_end_truth["features"]


def late(samples):
    return of_clip(np.concatenate([np.full(samples, 1e-3), CLIP]))


def without_mean():
    frames = TRUTH["frames"] - TRUTH["frames"].mean(1, keepdims=True)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    return features_of(oracle.mel(power, 80))


@pytest.mark.parametrize("broken", SEEN)
def test_what_is_seen(broken):
    wrong, words = SEEN[broken]
    found = look("features", wrong())
    assert not found.exact
    assert any(words in line for line in found.seen), found


@pytest.mark.parametrize("times", [3, 12])
@pytest.mark.parametrize("stage", ["power", "log", "features"])
def test_nothing_is_said_of_a_noisy_port(stage, times):
    unit = PIPELINE.floors({stage: TRUTH[stage]}, "float32")[stage]
    noisy = TRUTH[stage] + GOLD.normal(0, times * unit, TRUTH[stage].shape)
    assert look(stage, noisy).exact == ""


def test_nothing_is_said_of_other_numbers():
    assert look("features", GOLD.normal(size=TRUTH["features"].shape)) == ((), "")


# Whose numbers obey no rule: another window, scale or transform.
WITHOUT_A_RULE = ("Hamming window", "HTK mel scale", "n_fft 512", "real part only", "no window")


@pytest.mark.parametrize("name", WITHOUT_A_RULE)
def test_nothing_is_said_of_the_numbers_of_other_mistakes(name):
    wrong = PIPELINE.front_end(mistakes.find(name).convention())["features"]
    assert look("features", wrong).exact == ""
