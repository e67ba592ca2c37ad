"""`melfront encoder`: its errors for bad input, and that it leaves no partial file."""

import errno
import os
import shutil
import sys

import numpy as np
import pytest

from melfront.encoder import __main__
from tests.encoder.cli.commands import process, run, write


def assert_refused(capsys, *args, says: tuple[str, ...]):
    try:
        status = run(*args)
    except SystemExit as error:  # raised by argparse
        status = error.code
    stdout, stderr = capsys.readouterr()
    assert status == 2
    assert stdout == ""
    assert stderr.startswith("melfront encoder: ")
    assert stderr.count("\n") == 1
    assert stderr.endswith("\n")
    assert all(word in stderr for word in says), stderr


def test_bad_audio(toy, tmp_path, out, capsys):
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "empty.wav").touch()
    write(tmp_path / "silent.wav", np.zeros(0, dtype=np.float32))
    write(tmp_path / "nan.wav", np.array([0.0, np.nan, 0.5], dtype=np.float32))
    for name, word in {
        "text.wav": "convert it",
        "empty.wav": "convert it",
        "silent.wav": "no samples",
        "nan.wav": "sample 1",
        "out": "wav or flac",  # a folder
        "nowhere.wav": "no such file",
    }.items():
        file = out / "states.npz"
        assert_refused(
            capsys, tmp_path / name, "--model", toy, "-o", file, says=(str(tmp_path / name), word)
        )
    assert not list(out.iterdir())


def test_bad_models(clip, tmp_path, out, capsys):
    (tmp_path / "bad.safetensors").write_bytes(b"\x07\0\0\0\0\0\0\0garbage")
    for name, says in {
        "tinny": ("tinny", "tiny"),
        "a/b/c": ("a/b/c", "tiny"),
        tmp_path / "nowhere": ("nowhere",),
        tmp_path / "out": ("no weights", "model.safetensors"),
        tmp_path / "bad.safetensors": ("bad.safetensors", "damaged"),
        clip: ("clip.wav", ".safetensors"),
    }.items():
        assert_refused(capsys, clip, "--model", name, "-o", out / "x.npz", says=("--model", *says))
    assert not list(out.iterdir())


def test_hub_name_without_a_network(clip, tmp_path):
    done, _ = process(
        tmp_path, "-m", "melfront.encoder", str(clip), "--model", "openai/whisper-tiny"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "openai/whisper-tiny" in done.stderr
    assert "cache" in done.stderr


def test_bad_devices(clip, out, capsys):
    for device, word in {"quantum": "quantum", "meta": "meta", "cuda:99": "cuda"}.items():
        args = [clip, "--device", device, "-o", out / "x.npz"]
        assert_refused(capsys, *args, says=(f"--device {device}: ", word, "try --device cpu"))
    assert not list(out.iterdir())


def test_bad_usage(clip, out, tmp_path, capsys):
    for args, says in [
        ((clip, "--dtype", "float64"), ("float64", "bfloat16", "--help")),
        ((clip, "--frobnicate"), ("--frobnicate", "--help")),
        ((clip, "-o"), ("-o", "--help")),
        ((clip, "-o", out / "x.wav"), ("x.wav", ".npz, .safetensors, or a folder")),
        ((clip, "-o", out / "x"), ("out/x", ".npz, .safetensors, or a folder")),
        ((clip, "-o", clip / "x.npz"), ("x.npz", "no such folder")),
        ((clip, "-o", "/proc/x.npz"), ("/proc/x.npz", "cannot write")),
        ((clip, "-o", out / "x.npz", "--dtype", "bfloat16"), ("npz", "bfloat16")),
        ((clip, clip, "-o", out / "x.npz"), ("2 clips", "folder")),
        ((clip, tmp_path / "other" / "clip.flac", "-o", out), ("clip", "rename")),
    ]:
        assert_refused(capsys, *args, says=says)
    assert not list(out.iterdir())


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_failed_write_leaves_no_partial_file(toy, clip, out, suffix, capsys):
    file = out / f"states{suffix}"
    assert run(clip, "--model", toy, "-o", file) == 0
    before = file.read_bytes()
    capsys.readouterr()

    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        assert run(clip, "--model", toy, "-o", file) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert str(file) in message
    assert os.strerror(errno.EFBIG) in message
    assert list(out.iterdir()) == [file]
    assert file.read_bytes() == before


def test_too_little_room_is_said_before_all_is_computed(toy, clip, out, monkeypatch, capsys):
    free = shutil.disk_usage(out)._replace(free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: free)
    file = out / "states.safetensors"
    assert run(clip, "--model", toy, "-o", file) == 2
    stderr = capsys.readouterr().err
    assert f"{file} takes" in stderr
    assert "the disk has 0.00 GB left" in stderr
    assert not list(out.iterdir())


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_written_file_follows_the_umask(toy, clip, out, suffix):
    """Like any new file, although safetensors restricts it to its owner."""
    before = os.umask(0o027)
    try:
        assert run(clip, "--model", toy, "-o", out / f"x{suffix}") == 0
    finally:
        os.umask(before)
    assert (out / f"x{suffix}").stat().st_mode & 0o777 == 0o640


def test_progress_on_a_terminal_only(toy, clip, monkeypatch, capsys):
    monkeypatch.setitem(__main__.PROGRESS, "delay", 0)
    monkeypatch.setitem(__main__.PROGRESS, "mininterval", 0)
    assert run(clip, "--model", toy) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run(clip, "--model", toy) == 0
    progress = capsys.readouterr().err
    assert "clip.wav" in progress
    assert "3/3" in progress
    assert progress.endswith("\r"), "the bar is not removed at the end"
