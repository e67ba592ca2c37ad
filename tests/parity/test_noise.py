"""Every report says what one unit of noise is the error of."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from melfront import parity
from melfront.parity.files.dump import dump
from melfront.parity.noise import EPS, FOREIGN_ULP, UNITS, foreign_floor, rms, unit_line
from melfront.parity.pages import libraries_page, mistakes_page
from melfront.parity.signals import SIGNALS
from melfront.reference_data.manifest import HERE, manifest

SPEECH = SIGNALS["speech"].make()
OPTIONS = {"audio": SPEECH, "n_mels": 80, "pad_to": None}


@pytest.fixture(scope="module")
def features():
    return parity.trace(**OPTIONS)["features"].astype(np.float32)


def unit_of(report):
    """The unit that all stages have, which the text names too."""
    (unit,) = {stage.unit for stage in report.stages}
    assert str(report).splitlines()[1] == unit_line(unit)
    assert unit_line(unit).endswith(UNITS[unit])
    return unit


def test_of_a_computed_truth(features):
    report = parity.compare({"features": features}, **OPTIONS)
    assert unit_of(report) == "transformers"
    assert UNITS["transformers"] in report.to_json()


def test_of_a_reference_that_publishes_its_noise(features, tmp_path):
    path = tmp_path / "truth.npz"
    dump(path, SPEECH, wanted=["features"], n_mels=80, pad_to=None)
    assert unit_of(parity.compare({"features": features}, path)) == "published"


def test_of_another_programs_reference(features, tmp_path):
    path = tmp_path / "theirs.safetensors"
    save_file({"features": features}, path)
    report = parity.compare({"features": features}, path, **OPTIONS)
    assert unit_of(report) == "foreign"
    floor = report.stages[0].floor
    assert floor == foreign_floor(features) == FOREIGN_ULP * EPS["float32"] * rms(features)


def test_of_single_steps():
    """Forced, with every stage given, each is one step away from the one before."""
    trace = parity.trace(**OPTIONS)
    report = parity.compare(trace, **OPTIONS, forced=True)
    assert report.ok, report
    assert unit_of(report) == "step"


def test_of_a_mixture(tmp_path):
    """Two references' stages in one file: the line names both units."""
    path = tmp_path / "truth.npz"
    trace = parity.trace(**OPTIONS)
    dump(path, SPEECH, wanted=["features"], n_mels=80, pad_to=None)
    with np.load(path) as archive:
        np.savez(path, **dict(archive), mel=trace["mel"])
    report = parity.compare({name: trace[name] for name in ("mel", "features")}, path)
    assert [stage.unit for stage in report.stages] == ["foreign", "published"]
    assert str(report).splitlines()[1] == unit_line("foreign", "published")


@pytest.mark.parametrize(
    ("name", "module"), [("LIBRARIES.md", libraries_page), ("MISTAKES.md", mistakes_page)]
)
def test_of_the_pages(name, module):
    text = Path(parity.__file__).with_name(name).read_text("utf-8")
    assert UNITS["transformers"] in module.HEAD
    assert text.startswith(module.HEAD)


def test_of_what_is_committed():
    about = json.loads((HERE / "MANIFEST.json").read_text("utf-8"))["about"]
    assert unit_line("several CPUs") in about
    assert manifest()["about"] == about
