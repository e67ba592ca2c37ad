"""The differences of installed libraries are found and named from their numbers alone."""

from pathlib import Path

import numpy as np
import pytest

import melfront.parity.pages.libraries as module
from melfront import parity
from melfront.parity import signals
from melfront.parity.noise import PASS, SHAPE, WRONG
from melfront.parity.pages import libraries_page
from melfront.parity.pages.libraries import LIBRARIES, find, version
from melfront.parity.pages.libraries_page import N_MELS, Judged, judge_at

PAGE = Path(parity.__file__).with_name("LIBRARIES.md")
RIGHT = (
    "transformers, torch path",
    "transformers, NumPy path",
    "openai-whisper",
    "asrfront",
    "hf-processors-rs",
    "librosa, pad_mode='reflect'",
)


def library(name):
    found = find(name)
    if version(found.package) is None:
        pytest.skip(f"{found.package} is not installed")
    return found


@pytest.mark.parametrize("name", RIGHT)
def test_correct_libraries_pass(name):
    for signal in signals.SHORT:
        if (name, signal) == ("openai-whisper", "batch"):
            continue
        found = judge_at(library(name), signal, 80)
        assert found.verdict == PASS, (signal, found)
        assert found.left == found.noise <= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_correct_libraries_pass_on_the_sample_clip(name):
    for n_mels in N_MELS:
        found = judge_at(library(name), "sample", n_mels)
        assert found.verdict == PASS, found


# The same where the clip ends in silence: they differ in how its last two frames are made.
ALIKE = {"tail of zeros": ("features filled up with zeros",)}


@pytest.mark.parametrize(
    ("name", "signal", "mistake"),
    [
        ("openai-whisper", "batch", "batch-wide maximum"),
        ("openai-whisper, transcribe", "speech", "tail of zeros"),
        ("openai-whisper, transcribe", "quiet", "tail of zeros"),
        ("openai-whisper, transcribe", "batch", "tail of zeros"),
        ("faster-whisper", "speech", "a hop of zeros added"),
        ("faster-whisper", "batch", "a hop of zeros added"),
        ("faster-whisper, transcribe", "padded", "tail of zeros"),
        ("faster-whisper, transcribe", "tone", "tail of zeros"),
        ("librosa, default padding", "speech", "zero padding"),
        ("librosa, default padding", "batch", "zero padding"),
        ("kaldi-native-fbank", "padded", "Kaldi framing"),
        ("kaldi-native-fbank", "speech", "Kaldi framing + no frame dropped"),
    ],
)
def test_others_are_named(name, signal, mistake):
    found = judge_at(library(name), signal, 128)
    longer = any(part in mistake for part in ("a hop of zeros added", "no frame dropped"))
    assert found.verdict == (SHAPE if longer else WRONG)
    assert mistake in found.names
    assert {*found.names} <= {mistake, *ALIKE.get(mistake, ())}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mistakes"),
    [
        ("openai-whisper, transcribe", {"tail of zeros"}),
        # The clip ends in zeros, so two explanations of an extra frame of zeros are possible.
        ("faster-whisper", {"a hop of zeros added", "no frame dropped"}),
        ("faster-whisper, transcribe", {"tail of zeros"}),
        ("librosa, default padding", {"zero padding"}),
        ("kaldi-native-fbank", {"Kaldi framing"}),
    ],
)
def test_others_are_named_on_the_sample_clip(name, mistakes):
    assert set(judge_at(library(name), "sample", 80).names) == mistakes


def test_masks():
    """Two of the four masks of transformers 5.23 have one entry per sample."""
    if version("transformers") != "5.23.0":
        pytest.skip("transformers 5.23.0 is not installed")
    sizes = [(size, total) for _, size, total in libraries_page.masks()]
    assert sizes == [(3000, 810), (3000, 810), (480_000, 129_600), (480_000, 129_600)]


# The page


def test_missing_libraries_are_listed_as_not_installed(monkeypatch):
    monkeypatch.setattr(module, "version", lambda package: None)
    assert module.installed() == []
    text = libraries_page.page({}, list(LIBRARIES))
    for entry in LIBRARIES:
        assert f"| {entry.name} | not installed |" in text
    assert "masks" not in text


def test_report_writes_what_it_returns(monkeypatch, tmp_path):
    monkeypatch.setattr(libraries_page, "SIGNALS", ("padded", "tone"))
    monkeypatch.setattr(module, "LIBRARIES", (library("librosa, default padding"),))
    out = tmp_path / "LIBRARIES.md"
    text = libraries_page.report(str(out))
    assert out.read_text("utf-8") == text + "\n"
    assert f"| {version('librosa')} |" in text
    assert "zero padding (2 of 2 signals)" in text


def test_difference():
    right = Judged(PASS, 0.5, (), 0.5, "")
    named = Judged(WRONG, 1e5, ("a",), 0.7, "")
    either = Judged(WRONG, 1e5, ("b", "a"), 0.9, "")
    unknown = Judged(SHAPE, np.nan, (), np.nan, "c")
    assert libraries_page.difference({"x": right}) == "nothing"
    assert libraries_page.difference({"x": right, "y": named, "z": either}) == "a (2 of 3 signals)"
    assert libraries_page.difference({"x": unknown}) == "not named on 1, the nearest there: c"
    assert libraries_page.left({"x": right, "y": named, "z": either}) == 0.9


def test_committed_page_has_every_library():
    text = PAGE.read_text("utf-8")
    for entry in LIBRARIES:
        assert f"| {entry.name} |" in text
        assert f"- {entry.name}: {entry.call}" in text
