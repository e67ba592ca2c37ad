"""The files of a clip of several windows, and those of several clips."""

import errno
import tempfile

import numpy as np
import pytest
from safetensors import safe_open

import melfront
from melfront.__main__ import main
from tests.melfront.cli import test_cli
from tests.melfront.cli.test_cli import command, fails, soundfile

clip, long_clip, out = test_cli.clip, test_cli.long_clip, test_cli.out  # fixtures


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.safetensors"])
@pytest.mark.parametrize("in_memory", [0, 1 << 26])  # bytes; beyond, features wait on the disk
def test_files_of_a_long_clip(long_clip, out, monkeypatch, name, in_memory):
    monkeypatch.setattr("melfront.features_file.IN_MEMORY", in_memory)
    assert main([str(long_clip), "--n-mels", "37", "-o", str(out / name)]) == 0
    windows = melfront.stream(long_clip, n_mels=37, compiled=False)
    _, features, masks = map(np.array, zip(*((0, *w[1:]) for w in windows), strict=True))
    if name == "a.safetensors":
        with safe_open(out / name, framework="numpy") as file:
            read = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no dict
            assert file.metadata()["samples"] == "1000003"
    else:
        read = np.load(out / name)
    read = {"log_mel": read} if name == "a.npy" else read
    assert read["log_mel"].dtype == np.float32
    assert np.array_equal(read["log_mel"], features)
    if name != "a.npy":
        assert read["attention_mask"].dtype == np.int32
        assert np.array_equal(read["attention_mask"], masks)
    assert [path.name for path in out.iterdir()] == [name]


def test_clips_before_a_bad_one_are_written(clip, out, tmp_path, capsys):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(clip.read_bytes()[:-100])
    assert main([str(clip), str(bad), "-o", str(out)]) == 2
    assert "bad.wav is cut short" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["speech.safetensors"]


def test_full_disk_while_a_long_clip_waits(capsys, out, long_clip, monkeypatch):
    """It is reported with the file's name, though what is full is a file without one."""

    class Full(tempfile.SpooledTemporaryFile):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", Full)
    assert "a.npz: No space left on device" in fails(capsys, out, long_clip, "-o", out / "a.npz")


def test_notes_of_a_c_library_are_dropped(tmp_path, clip):
    """mpg123 writes them to standard error by itself."""
    path = tmp_path / "clip.mp3"
    soundfile.write(path, melfront.load_audio(clip), 16_000, format="MP3")
    mp3 = bytearray(path.read_bytes())
    mp3[len(mp3) // 2 : len(mp3) // 2 + 40] = bytes(40)
    path.write_bytes(mp3)
    result = command(str(path))
    assert result.stderr.count("\n") == (result.returncode != 0)
