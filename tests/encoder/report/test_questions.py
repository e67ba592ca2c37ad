"""Ten questions that the page has to answer. They were written before it was read for them."""

import re

import numpy as np
import pytest

import melfront
from melfront.encoder import report
from melfront.parity.pages import what_if
from tests.encoder.report.conftest import ABOUT
from tests.signals import sample


@pytest.fixture(scope="module")
def said(seen, model):
    """Every word of the page, with single spaces, and "-" for a minus."""
    mistakes = what_if.of_clip(seen, model)
    html = report.html_of("sample.flac", len(sample()), seen, model.config, ABOUT, (), mistakes)
    body = re.sub(r"<(script|style).*?</\1>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split()).replace("−", "-")


def answers(seen):
    """Question -> what the page has to say, computed here."""
    features = melfront.log_mel(sample(), n_mels=80)
    log = seen.front["log"]
    away = seen.attention.distance * 0.02
    block, head = np.unravel_index(away.argmin(), away.shape)
    share = 100 * seen.attention.padding.mean()
    return {
        "How long is a frame, and how often does one begin?": (
            "400 samples, 25 ms",
            "A new piece starts every 160 samples, 10 ms",
        ),
        "Which samples does frame f hold?": ("160 f - 200 to 160 f + 199",),
        "What stands before the first sample?": ("the waveform itself, mirrored",),
        "What is wrong with numpy.hanning?": ("numpy.hanning gives the symmetric one",),
        "How loud is the loudest place, and below what is everything raised?": (
            f"has the logarithm {log.max():.2f}",
            f"here below {log.max() - 8:.2f}",
        ),
        "What are the features of the padding?": (
            f"Its features there are {features[0, -1]:.3f}, not 0",
        ),
        "Which convolution halves the sequence, and what does one position hear?": (
            "Its stride is 1, so 3,000 frames stay",
            "its stride is 2",
            "1,040 samples, 65 ms",
        ),
        "Does attention see the padding, and how much of it goes there?": (
            "Nothing is masked",
            f"shares {share:.0f} % go to positions after the clip",
        ),
        "Which head looks nearest?": (f"head {head + 1} of block {block + 1} looks nearest",),
        "Which state does hidden_states not hold?": (
            "The state before the norm, the first picture here, is in none",
        ),
    }


def test_ten_questions(said, seen):
    asked = answers(seen)
    assert len(asked) == 10
    for question, words in asked.items():
        for word in words:
            assert word in re.sub(r" ([.,:])", r"\1", said), question
