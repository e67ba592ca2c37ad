"""Files that are broken or contain something else give a one-line error."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.parity.commands import FEATURES, assert_one_line


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "npy"])
def test_empty_file(compare, tmp_path, suffix):
    path = tmp_path / f"features.{suffix}"
    path.touch()
    assert_one_line(compare(path), path, "empty")
    assert_one_line(compare(tmp_path / "clip.wav", path), "clip.wav")


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "npy"])
@pytest.mark.parametrize("keep", [1, 7, 60, 0.1, 0.5, 0.9, -1])
def test_truncated_file(compare, tmp_path, suffix, keep):
    path = tmp_path / f"features.{suffix}"
    save = {
        "npz": lambda: np.savez(path, features=FEATURES, mel=np.exp(FEATURES)),
        "safetensors": lambda: save_file({"features": FEATURES}, path),
        "npy": lambda: np.save(path, FEATURES),
    }[suffix]
    save()
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    assert_one_line(compare(path), path)


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "npy"])
def test_file_of_another_kind_of_content(compare, tmp_path, suffix):
    path = tmp_path / f"features.{suffix}"
    path.write_text("not a tensor at all, but a letter to somebody\n" * 9)
    assert_one_line(compare(path), path)


def test_damaged_bytes(compare, tmp_path):
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, features=FEATURES)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert_one_line(compare(path), path)


def test_pickles_are_not_read(compare, tmp_path):
    objects = np.array([FEATURES, "evil"], dtype=object)
    np.savez(tmp_path / "mine.npz", features=objects)
    np.save(tmp_path / "features.npy", objects)
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "features.npy", objects)
    for name in ("mine.npz", "features.npy", "folder"):
        assert_one_line(compare(tmp_path / name), "Python objects")


@pytest.mark.parametrize("dtype", [np.int16, np.int64, np.bool_, np.uint8])
def test_integer_tensors(compare, tmp_path, dtype):
    np.savez(tmp_path / "mine.npz", features=FEATURES.astype(dtype))
    assert_one_line(compare(tmp_path / "mine.npz"), "features", np.dtype(dtype).name, "float32")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_mels", "many"),
        ("pad_to", "x"),
        ("pad_to", "inf"),
        ("sampled.features", "3.5"),
        ("convention", "y"),
    ],
)
def test_invalid_metadata(run, tmp_path, key, value):
    save_file({"features": FEATURES}, tmp_path / "mine.safetensors", metadata={key: value})
    assert_one_line(run("compare", tmp_path / "mine.safetensors"), key)
    np.savez(tmp_path / "mine.npz", features=FEATURES, __metadata__=np.array("{no json"))
    assert_one_line(run("compare", tmp_path / "mine.npz"), "metadata", "JSON")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("floor.features", "x"),
        ("floor.features", "nan"),
        ("floor.features", "inf"),
        ("floors", "{}"),
    ],
)
def test_invalid_metadata_of_a_reference(run, tmp_path, right, key, value):
    """With an infinite floor, everything would pass; `floors` is the old name of the key."""
    save_file({"features": FEATURES}, tmp_path / "truth.safetensors", metadata={key: value})
    result = run("compare", right, tmp_path / "truth.safetensors", "--pad-to", "none")
    assert_one_line(result, "metadata", key)


def test_empty_and_scalar_tensors(compare, tmp_path):
    for values in (np.zeros((80, 0)), np.zeros(0), np.float32(3), np.zeros((0, 80, 37))):
        np.savez(tmp_path / "mine.npz", features=np.float32(values))
        status, out, _ = compare(tmp_path / "mine.npz")
        assert status == 1
        assert "SHAPE" in out
