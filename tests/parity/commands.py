"""Helpers for tests of the command line. The fixtures are in conftest.py."""

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
