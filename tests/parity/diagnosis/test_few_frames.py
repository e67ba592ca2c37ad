"""The front end on a few frames gives the values of all frames: the right mistake ranks first."""

from dataclasses import replace

import numpy as np
import pytest

from melfront import parity, variants
from melfront.conventions import CONVENTIONS, TRANSFORMERS
from melfront.parity import mistakes
from melfront.parity.diagnosis.few_frames import SERVES, FewFrames
from melfront.parity.diagnosis.front_end import both
from melfront.parity.noise import rms
from melfront.parity.pipeline import Pipeline
from melfront.parity.resolve import of_signal
from melfront.parity.signals import SIGNALS
from tests.parity.commands import soon

# These need all frames: on a few, their values are only close.
NEED_ALL = [
    entry.name
    for entry in mistakes.FRONT_END
    if (c := entry.convention()).max_scope == "bin"
    or c.output_mean not in (None, "frame")
    or (c.chunk and c.max_chunk)
]


@pytest.mark.parametrize("stage", SERVES)
@pytest.mark.parametrize("signal", soon(["padded", "batch", "late", "tone"], "padded", "batch"))
def test_distance_to_the_right_mistake_is_zero(signal, stage):
    pipeline = of_signal(signal, 80)
    for entry in mistakes.FRONT_END:
        convention = entry.convention()
        mine = pipeline.front_end(convention, upto=stage)[stage]
        screen = FewFrames(pipeline, stage, mine)
        if entry.name in NEED_ALL and stage in ("clamped", "features"):
            assert screen.least(convention, 1.0) == 0.0
        else:
            assert screen.distance_to(convention) <= 1e-12 * (1 + np.abs(mine).max()), entry.name


def ends_loudly(convention: str) -> Pipeline:
    """Near-silence and a click, loudest in the frame after the last one of faster-whisper."""
    clip = 1e-4 * np.random.default_rng(3).normal(size=16_159).astype(np.float32)
    clip[-1] = 0.9
    return Pipeline(clip, n_mels=80, convention=CONVENTIONS[convention], pad_to=2.0)


def test_frames_excluded_from_the_maximum():
    pipeline = ends_loudly("faster-whisper")
    change = {"max_frames": "all", "fill": None}
    for convention in (pipeline.convention, replace(pipeline.convention, **change)):
        mine = pipeline.front_end(convention)["clamped"]
        assert FewFrames(pipeline, "clamped", mine).distance_to(convention) <= 1e-12
    assert FewFrames(pipeline, "clamped", mine).distance_to(pipeline.convention) > 0.1


def test_noise_with_frames_excluded_from_the_maximum():
    pipeline = ends_loudly("faster-whisper")
    truth = {"clamped": pipeline.front_end_truth["clamped"]}
    assert pipeline.floors(truth, "float32")["clamped"] <= 1e-4


def test_another_number_of_frames_is_infinitely_far():
    pipeline = of_signal("padded", 80)
    longer = pipeline.front_end(mistakes.find("no frame dropped").convention())["features"]
    screen = FewFrames(pipeline, "features", longer)
    assert screen.distance_to(TRANSFORMERS) == np.inf
    assert np.isfinite(screen.distance_to(mistakes.find("a hop of zeros added").convention()))


def test_least_is_a_lower_bound_of_the_error():
    pipeline = of_signal("padded", 80)
    truth = pipeline.front_end_truth["features"]
    mine = truth + np.random.default_rng(3).normal(0, 1e-3, truth.shape)
    screen = FewFrames(pipeline, "features", mine)
    least = screen.least(TRANSFORMERS, screen.distance_to(TRANSFORMERS))
    assert 0 < least <= rms(mine - truth)


@pytest.mark.parametrize("signal", soon(["padded", "batch"], "padded"))
def test_two_mistakes_at_once(signal):
    pair = (mistakes.find("HTK mel scale"), mistakes.find("Hamming window"))
    clip = SIGNALS[signal]
    mine = variants.log_mel(
        clip.make(), n_mels=80, convention=both(TRANSFORMERS, pair), pad_to=clip.pad_to
    )
    report = parity.compare(
        {"features": mine.astype(np.float32)}, audio=clip.make(), pad_to=clip.pad_to
    )
    assert [set(named.entries) for named in report.diagnosis.named] == [set(pair)]


@pytest.mark.parametrize(("times", "known"), [(1, True), (12, True), (100, False)])
def test_noise_is_not_taken_for_a_second_mistake(times, known):
    """An extra frame plus noise is one known mistake or an unknown one, but never two."""
    pipeline = of_signal("speech", 80)
    truth = pipeline.front_end_truth
    mine = pipeline.front_end(mistakes.find("no frame dropped").convention())["features"]
    noise = times * pipeline.floors({"features": truth["features"]}, "float32")["features"]
    mine = mine + np.random.default_rng(3).normal(0, noise, mine.shape)
    report = parity.compare(
        {"features": mine.astype(np.float32)}, audio=pipeline.audio, pad_to=pipeline.pad_to
    )
    assert report.stages[0].verdict == "SHAPE"
    names = [named.name for named in report.diagnosis.named]
    assert names == (["no frame dropped"] if known else []), report
