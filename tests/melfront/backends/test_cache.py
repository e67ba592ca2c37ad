"""The compiled front end in several processes, and the cache that they share."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

import melfront
from tests.signals import Signal

pytestmark = pytest.mark.slow  # each process compiles
PROGRAM = """
import numpy as np, sys, melfront
np.save(sys.argv[2], melfront.log_mel(np.load(sys.argv[1]), pad_to=1.0))
assert melfront.for_arrays(True).__module__.endswith("numba_backend")
"""


@pytest.fixture
def clip() -> np.ndarray:
    return Signal("speech", 9_001, seed=3).array()


def started(clip: np.ndarray, tmp_path: Path, name: str = "features", **environment):
    np.save(tmp_path / "clip.npy", clip)
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), **environment}
    command = [sys.executable, "-c", PROGRAM, tmp_path / "clip.npy", tmp_path / f"{name}.npy"]
    return subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE)


def features_of(process, tmp_path: Path, name: str = "features") -> np.ndarray:
    _, message = process.communicate()
    assert process.returncode == 0, message.decode()
    assert message == b""  # it says nothing where there is no terminal
    return np.load(tmp_path / f"{name}.npy")


def test_two_processes_at_once(clip, tmp_path):
    processes = [started(clip, tmp_path, name) for name in "ab"]
    one, other = (features_of(p, tmp_path, name) for p, name in zip(processes, "ab", strict=True))
    assert np.array_equal(one, melfront.log_mel(clip, pad_to=1.0))
    assert np.array_equal(one, other)
    assert list((tmp_path / "cache").rglob("*.nbc"))
    assert np.array_equal(features_of(started(clip, tmp_path), tmp_path), one)


def test_a_cache_that_another_cpu_wrote(clip, tmp_path):
    """A cluster's computers share a home. The same file name, another CPU: compiled again."""
    truth = melfront.oracle.log_mel(clip, pad_to=1.0)
    for name in ("generic", ""):
        other_cpu = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ""} if name else {}
        ours = features_of(started(clip, tmp_path, **other_cpu), tmp_path)
        assert np.abs(ours - truth).max() <= 5e-7
    assert np.array_equal(ours, melfront.log_mel(clip, pad_to=1.0))
    assert len(list((tmp_path / "cache").rglob("*before_clamp*.nbc"))) == 2


@pytest.mark.parametrize("damage", [b"\x80\x04garbage", None])
def test_a_damaged_cache(clip, tmp_path, damage):
    expected = features_of(started(clip, tmp_path), tmp_path)
    files = [*(tmp_path / "cache").rglob("*.nbi"), *(tmp_path / "cache").rglob("*.nbc")]
    assert len(files) == 4
    for file in files:
        file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    assert np.array_equal(features_of(started(clip, tmp_path), tmp_path), expected)
