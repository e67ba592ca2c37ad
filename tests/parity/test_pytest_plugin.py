"""The pytest fixture, run as other projects run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import melfront
from melfront import parity
from melfront.parity.pytest_plugin import Reference
from melfront.parity.signals import SIGNALS
from tests.conftest import CHECKOUT

SUITE = """
import melfront, pytest

def test_right(parity_reference):
    parity_reference.check(melfront.log_mel(parity_reference.audio, n_mels=80), "input_features")

def test_stages(parity_reference):
    assert parity_reference.stage("mel").shape == (80, 3000)
    assert parity_reference.stage("log_mel").dtype == "float64"

def test_wrong(parity_reference):
    mine = melfront.log_mel(parity_reference.audio, n_mels=80) - 1
    parity_reference.check(mine, "features")
"""
CONFTEST = """
import pytest

@pytest.fixture(scope="session")
def parity_options():
    return {"n_mels": 80}
"""
LIGHT = """
import sys

def test_nothing():
    assert "melfront.parity.pytest_plugin" in sys.modules
    assert not {"numpy", "torch", "scipy", "soundfile", "tqdm"} & set(sys.modules)
"""


def run_pytest(folder):
    """Run pytest in a new process with only our plugin."""
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(CHECKOUT)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "melfront.parity.pytest_plugin",
        "-q",
        "--rootdir=.",
    ]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_fixture_in_a_test_suite(tmp_path):
    (tmp_path / "test_port.py").write_text(SUITE)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    done = run_pytest(tmp_path)
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "features  WRONG" in done.stdout
    assert "looks like: offset left out" in done.stdout
    assert "compare_with" not in done.stdout  # the traceback hides our own frames


def test_plugin_imports_nothing_heavy_until_used(tmp_path):
    (tmp_path / "test_nothing.py").write_text(LIGHT)
    done = run_pytest(tmp_path)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_fixtures_are_documented(tmp_path):
    command = [sys.executable, "-m", "pytest", "-p", "melfront.parity.pytest_plugin", "--fixtures"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(CHECKOUT)}
    out = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "parity_reference" in out.stdout
    assert "truth of every stage" in out.stdout


def test_entry_point():
    text = (CHECKOUT / "pyproject.toml").read_text()
    table = re.search(r"\[project\.entry-points\.pytest11\]\n(.+)", text)
    assert table, "pyproject.toml does not register the plugin"
    assert table[1] == 'melfront = "melfront.parity.pytest_plugin"'


def test_reference_of_an_encoder():
    clip = SIGNALS["toy"].make()
    reference = Reference(audio=clip, model="formula:toy")
    np.testing.assert_array_equal(reference.audio, clip)
    assert reference.audio.dtype == np.float32
    truth = reference.stage("last_hidden_state")
    assert truth is reference.stage("ln_post")
    np.testing.assert_array_equal(reference.stage("hidden_states.0"), reference.stage("positions"))
    reference.check(truth.astype(np.float32)[None], "last_hidden_state")
    with pytest.raises(AssertionError, match=r"ln_post  WRONG"):
        reference.check(truth * 1.01, "ln_post")
    with pytest.raises(parity.ParityError, match="did you mean ln_post"):
        reference.stage("ln_posts")


def test_reference_of_a_batch():
    clips = [SIGNALS["speech"].make(), SIGNALS["noise"].make()]
    reference = Reference(audio=clips, n_mels=80, pad_to=0.5)
    assert [len(clip) for clip in reference.audio] == [len(clip) for clip in clips]
    features = melfront.log_mel(reference.audio, n_mels=80, pad_to=0.5)
    reference.check(features, "features")
    with pytest.raises(AssertionError):
        reference.check(features[::-1], "features")


def test_default_clip_is_the_sample(sample):
    np.testing.assert_array_equal(Reference().audio, sample)
