"""Tensors whose values were rounded to decimal digits when they were printed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from melfront import parity
from melfront.parity import mistakes
from melfront.parity.comparison.rounding import rounding_of
from melfront.parity.files.tensors import Tensor
from melfront.parity.pipeline import load_model
from melfront.parity.signals import SIGNALS
from tests.parity.commands import FEATURES, SPEECH
from tests.parity.ports import front_end_dump

DRAW = np.random.default_rng(5)
NORMAL = DRAW.normal(size=(97, 101))
WIDE = NORMAL * 10.0 ** DRAW.uniform(-6, 4, NORMAL.shape)


def printed(values, form):
    """The values as a float32 program prints and another reads them."""
    flat = [float(form % x) for x in values.astype("f4").astype("f8").ravel()]
    return np.float32(flat).reshape(values.shape)


@pytest.mark.parametrize("form", ["%.1f", "%.2f", "%.4f", "%.6f"])
def test_places_are_recognised(form):
    for values in (NORMAL, NORMAL[:, ::-1].T, NORMAL.astype("f4")):
        found = rounding_of(Tensor(printed(values, form), "float32"), values)
        assert found == (int(form[2]), None)


@pytest.mark.parametrize(("form", "digits"), [("%g", 6), ("%.3g", 3), ("%.4e", 5), ("%.2e", 3)])
@pytest.mark.parametrize("values", [NORMAL, WIDE], ids=["normal", "wide"])
def test_significant_digits_are_recognised(values, form, digits):
    assert rounding_of(Tensor(printed(values, form), "float32"), values) == (None, digits)


@pytest.mark.parametrize(
    "values",
    [
        NORMAL,
        WIDE,
        np.zeros((80, 100)),
        np.full((80, 100), -1.5),
        DRAW.integers(0, 10, (80, 100)) / 10,
        np.where(NORMAL > 0, np.nan, 0.5),
        NORMAL.astype("f2"),
        torch.from_numpy(NORMAL).bfloat16().float().numpy(),
        np.zeros((0, 3)),
        printed(NORMAL, "%.8g"),
    ],
    ids=["normal", "wide", "zeros", "constant", "few", "nan", "float16", "bfloat16", "empty", "8"],
)
def test_what_was_not_rounded(values):
    assert rounding_of(Tensor(values.astype("f4"), "float32"), values) is None


@pytest.mark.parametrize(
    ("form", "step"), [("%.4f", "0.0001"), ("%.3f", "0.001"), ("%.2f", "0.01")]
)
def test_a_right_port_passes(form, step):
    report = parity.compare({"log_mel": printed(FEATURES, form)}, audio=SPEECH, pad_to=None)
    assert report.ok, report
    note = f"every value is a multiple of {step}: rounded when printed; right to within that"
    assert note in report.stages[0].notes
    assert parity.compare({"log_mel": FEATURES}, audio=SPEECH, pad_to=None).stages[0].notes == ()


@pytest.mark.parametrize("name", ["symmetric window", "zero padding", "HTK mel scale"])
def test_a_mistake_larger_than_the_rounding_is_named(name):
    wrong = front_end_dump(SPEECH, mistakes.find(name).convention())["features"]
    report = parity.compare({"log_mel": printed(wrong, "%.4f")}, audio=SPEECH, pad_to=None)
    assert report.first_wrong.verdict == "WRONG"
    assert name in [n.name for n in report.diagnosis.named]
    (note,) = report.first_wrong.notes
    assert note == "every value is a multiple of 0.0001: rounded when printed"


def test_every_stage_printed():
    """By six significant digits, which is coarse where a tensor has few large values."""
    model, clip = load_model("formula:toy"), SIGNALS["toy"].make()
    trace = parity.trace(clip, model)
    spectrum = trace.pop("spectrum")
    given = {stage: printed(x, "%g") for stage, x in trace.items()}
    given["spectrum"] = printed(np.stack([spectrum.real, spectrum.imag], -1), "%g")
    report = parity.compare(given, audio=clip, model=model)
    assert report.ok, report
    wrong = parity.compare({**given, "conv1": given["conv1"] * 1.001}, audio=clip, model=model)
    assert wrong.first_wrong.name == "conv1"
