"""Every report states what one unit of noise is."""

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
    """The one unit of all stages, which the text also names."""
    (unit,) = {stage.unit for stage in report.stages}
    assert str(report).splitlines()[1] == unit_line(unit)
    assert unit_line(unit).endswith(UNITS[unit])
    return unit


def test_unit_of_a_computed_truth(features):
    report = parity.compare({"features": features}, **OPTIONS)
    assert unit_of(report) == "transformers"
    assert UNITS["transformers"] in report.to_json()


def test_unit_of_a_reference_with_its_own_noise(features, tmp_path):
    path = tmp_path / "truth.npz"
    dump(path, SPEECH, wanted=["features"], n_mels=80, pad_to=None)
    assert unit_of(parity.compare({"features": features}, path)) == "published"


def test_unit_of_a_foreign_reference(features, tmp_path):
    path = tmp_path / "theirs.safetensors"
    save_file({"features": features}, path)
    report = parity.compare({"features": features}, path, **OPTIONS)
    assert unit_of(report) == "foreign"
    floor = report.stages[0].floor
    assert floor == foreign_floor(features) == FOREIGN_ULP * EPS["float32"] * rms(features)


def test_unit_of_single_steps():
    """With `forced` and every stage given, each stage is one step from the previous one."""
    trace = parity.trace(**OPTIONS)
    report = parity.compare(trace, **OPTIONS, forced=True)
    assert report.ok, report
    assert unit_of(report) == "step"


def test_units_of_a_mixture(tmp_path):
    """If a file has stages of two references, the line names both units."""
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
def test_pages_state_their_unit(name, module):
    text = Path(parity.__file__).with_name(name).read_text("utf-8")
    assert UNITS["transformers"] in module.HEAD
    assert text.startswith(module.HEAD)


def test_manifest_states_its_unit():
    about = json.loads((HERE / "MANIFEST.json").read_text("utf-8"))["about"]
    assert unit_line("several CPUs") in about
    assert manifest()["about"] == about
