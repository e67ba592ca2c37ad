"""Fixtures: the command line, a clip, and files of its features.

The tests run on one thread: their tensors are too small for more.
"""

import numpy as np
import pytest
import torch

from melfront.parity.__main__ import main


def pytest_pycollect_makemodule():
    """Skip the folder without soundfile: these tests read the sample clip, a .flac file."""
    pytest.importorskip("soundfile")


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def clip(tmp_path):
    import soundfile

    from tests.parity.commands import SPEECH

    path = tmp_path / "clip.wav"
    soundfile.write(path, SPEECH, 16_000, subtype="FLOAT")
    return path


@pytest.fixture
def right(tmp_path):
    from tests.parity.commands import FEATURES

    np.savez(tmp_path / "right.npz", features=FEATURES)
    return tmp_path / "right.npz"


@pytest.fixture
def wrong(tmp_path):
    from tests.parity.commands import FEATURES

    np.savez(tmp_path / "wrong.npz", features=FEATURES - 1)
    return tmp_path / "wrong.npz"


@pytest.fixture
def no_search(monkeypatch):
    """No mistake is searched for, which takes seconds: for tests of what else a report says."""
    from melfront.parity.diagnosis.match import Diagnosis

    for module in ("naming", "fewer_bits"):
        name = f"melfront.parity.comparison.{module}.diagnose"
        monkeypatch.setattr(name, lambda _: Diagnosis([]))
    monkeypatch.setattr("melfront.parity.comparison.fewer_bits.arithmetics", lambda _: [])


@pytest.fixture
def run(capsys):
    """Run the command line in this process: exit status, stdout, stderr."""

    def call(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def compare(run, clip):
    """`compare` for files made from the clip without padding."""
    return lambda *arguments: run("compare", *arguments, "--audio", clip, "--pad-to", "none")
