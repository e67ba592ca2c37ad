"""Helpers for tests of the command line. The fixtures are in conftest.py."""

import pytest

import melfront
from melfront.parity.signals import SIGNALS

SPEECH = SIGNALS["speech"].make()
FEATURES = melfront.log_mel(SPEECH, n_mels=80, pad_to=None)


def assert_one_line(result, *words):
    """Assert exit status 2 and one line on stderr that contains these words."""
    status, out, err = result
    assert status == 2, (out, err)
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    assert "Traceback" not in err
    for word in words:
        assert str(word).lower() in err.lower(), err


def soon(values, *kept):
    """Parameters of a test: these values are tried always, the others with the slow tests."""
    return [pytest.param(v, marks=[] if v in kept else [pytest.mark.slow]) for v in values]
