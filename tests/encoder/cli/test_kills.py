"""`melfront encoder` over 50 clips, killed at random moments and started again."""

import json
import os

import pytest

from tests.encoder.cli.commands import process
from tests.encoder.cli.killed import N_CLIPS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork a process")
@pytest.mark.parametrize("n_kills", [2, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_and_started_again(n_kills, tmp_path):
    """At the end every file is there, equal to an undisturbed run's, and nothing else."""
    pytest.importorskip("soundfile")
    module = "tests.encoder.cli.killed"
    done, _ = process(tmp_path, "-m", module, str(n_kills), str(tmp_path), timeout=600)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["kills"] >= n_kills
    if n_kills > 100:  # some came while files were written, not all before or after
        assert any(0 < int(n) < N_CLIPS for n in figures["clips there, in tens"]), figures
