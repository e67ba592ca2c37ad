"""The answers to the exercises in `melfront.variants.trace` and `encoder.oracle.trace`.

Each test runs the recipe and the change that it reads from the docstring.
"""

import inspect
import re
import textwrap

import numpy as np
import pytest

from melfront import oracle, variants
from melfront.encoder import oracle as encoder_oracle
from tests.conftest import CHECKOUT

TEXTS = [inspect.getdoc(module.trace) for module in (variants, encoder_oracle)]


def recipe(text):
    """The indented block of a docstring."""
    return textwrap.dedent(re.search(r"\n\n((?:    .*\n|\n)+)", text)[1])


def exercise(number, **before):
    """The report of an exercise. `before`: lines that its text tells readers to replace first."""
    text = next(text for text in TEXTS if re.search(rf"^{number}\. ", text, flags=re.MULTILINE))
    change = re.search(rf"^{number}\. CHANGE is `([^`]+)`", text, flags=re.MULTILINE)[1]
    code = recipe(text).replace("CHANGE", change)
    for line_before, line in before.items():
        found = re.search(rf"^{line_before} = .*\n", code, flags=re.MULTILINE)[0]
        assert line in text
        code = code.replace(found, found + line + "\n")
    scope = {}
    exec(code, scope)
    return scope["report"]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(CHECKOUT)


def wrong(report):
    return [stage.name for stage in report.stages if stage.verdict == "WRONG"]


def right(report):
    return [stage.name for stage in report.stages if stage.verdict == "PASS"]


def stage(report, name):
    return next(stage for stage in report.stages if stage.name == name)


def test_1_zeros_at_the_edges():
    """From `padded` on, but only frames 0 and 1: frame 2 starts at sample 120 of the clip.

    The 30 s end with silence, and mirrored silence is zeros too.
    """
    report = exercise(1)
    assert report.first_wrong.name == "padded"
    assert right(report) == []
    for name in ("frames", "features"):
        assert stage(report, name).bad == "2 of 3000 frames bad"
        assert "frame 0" in stage(report, name).worst


def test_2_a_higher_floor(sample):
    """`log` alone: the clip's maximum is above 1, so the clamp raises every value to -7 or more."""
    report = exercise(2)
    assert wrong(report) == ["log"]
    assert right(report)[-2:] == ["clamped", "features"]
    assert oracle.trace(sample)["log"].max() > 1


def test_3_one_maximum_for_all():
    """None for a single clip. In a batch of two, the quiet clip is wrong from `clamped` on.

    It is clamped at 8 below the maximum of the loud clip.
    """
    assert wrong(exercise(3)) == []
    report = exercise(3, audio="audio = [audio, audio / 1000]")
    assert wrong(report) == ["clamped", "features"]
    assert "clip 1" in stage(report, "clamped").worst


def test_4_the_other_gelu():
    """No: from `gelu1` on, 4.7e-4 is hundreds of times the noise, and it stays to the end."""
    report = exercise(4)
    assert right(report) == ["conv1"]
    assert report.first_wrong.name == "gelu1"
    assert stage(report, "gelu1").max_abs == pytest.approx(4.7e-4, rel=0.05)
    assert stage(report, "ln_post").noise > 100


def test_5_a_bias_for_the_keys():
    """To `k` and `scores` of each block, and no further.

    All scores of a query grow by the same amount, which softmax cancels.
    """
    report = exercise(5)
    assert wrong(report) == [f"block.{i}.attn.{name}" for i in (0, 1) for name in ("k", "scores")]
    assert stage(report, "ln_post").verdict == "PASS"


def test_6_a_causal_mask():
    """`context` is first: the trace computes scores and weights from q and k, without the mask.

    The last position may attend to all others, so it is right in the first block. In the second
    block, it attends to positions that are wrong and becomes wrong too.
    """
    report = exercise(6)
    assert report.first_wrong.name == "block.0.attn.context"
    assert {"block.0.attn.scores", "block.0.attn.weights"} <= set(right(report))
    bad = stage(report, "block.0.mlp_residual")
    assert bad.bad == "49 of 50 positions bad"
    assert np.argmin(bad.steps) == 49
    assert stage(report, "block.1.attn.context").bad == "50 of 50 positions bad"
