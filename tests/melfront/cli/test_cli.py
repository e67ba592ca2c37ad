"""The `melfront` command: its output, its files, and one line and status 2 for bad input."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from safetensors import safe_open

import melfront
from melfront.__main__ import main
from melfront.parity import compare
from melfront.parity.stages import ParityError
from tests.conftest import CHECKOUT
from tests.signals import SAMPLE, Signal

soundfile = pytest.importorskip("soundfile")  # every clip here is a file


def command(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "melfront", *args],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "in" / "speech.wav"
    path.parent.mkdir()
    soundfile.write(path, Signal("speech", 9_001, seed=3).array(), 16_000)
    return path


@pytest.fixture
def long_clip(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, Signal("speech", 1_000_003, seed=3).array(), 16_000)
    return path


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def fails(capsys, out, *args: object) -> str:
    """Run with bad arguments, check that no file remains, and return the one line on stderr."""
    try:
        status = main([str(arg) for arg in args])
    except SystemExit as stop:  # raised by argparse
        status = stop.code
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("melfront: ")
    assert "Traceback" not in captured.err
    assert list(out.iterdir()) == []
    return captured.err


# Good input


def test_without_arguments():
    result = command()
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "sample.flac: 8.10 s, 810 of 3000 frames hold audio" in result.stdout
    assert "features (128, 3000) float32, min -" in result.stdout
    assert result.stdout.count("\n") == 1


def test_does_not_import_torch_or_matplotlib():
    code = (
        "import sys; from melfront.__main__ import main; main([]); "
        "print(sorted({'torch', 'matplotlib', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_help_and_usage_errors_are_fast():
    def seconds(*args: str, status: int) -> float:
        # CPU time, because wall time grows on a busy machine.
        before = os.times()
        assert command(*args).returncode == status
        after = os.times()
        return (
            after.children_user
            + after.children_system
            - (before.children_user + before.children_system)
        )

    assert min(seconds("--help", status=0) for _ in range(3)) < 1
    assert min(seconds("--n-mels", "0", status=2) for _ in range(3)) < 1
    text = command("--help").stdout
    assert "examples:\n  melfront" in text
    assert all(name in text for name in melfront.CONVENTIONS)


def test_npy(clip, out, capsys):
    assert main([str(clip), "-o", str(out / "a.npy")]) == 0
    features = np.load(out / "a.npy")
    assert np.array_equal(features, melfront.log_mel(melfront.load_audio(clip), compiled=False))
    assert f"written to {out / 'a.npy'}" in capsys.readouterr().out


def test_npz(clip, out):
    args = [str(clip), "--n-mels", "80", "--convention", "openai-transcribe"]
    assert main([*args, "-o", str(out / "a.npz")]) == 0
    expected = melfront.log_mel(
        melfront.load_audio(clip), n_mels=80, convention="openai-transcribe", compiled=False
    )
    with np.load(out / "a.npz") as file:
        assert sorted(file) == ["attention_mask", "log_mel", "metadata"]
        assert json.loads(str(file["metadata"]))["convention"] == "openai-transcribe"
        assert np.array_equal(file["log_mel"], expected)
        assert file["attention_mask"].shape == (3_000,)
        assert file["attention_mask"].sum() == 57
    assert [path.name for path in out.iterdir()] == ["a.npz"]


def test_safetensors(clip, out):
    path = out / "a.safetensors"
    assert main([str(clip), "--n-mels", "37", "-o", str(path)]) == 0
    with safe_open(path, framework="numpy") as file:
        assert sorted(file.keys()) == ["attention_mask", "log_mel"]
        expected = melfront.log_mel(melfront.load_audio(clip), n_mels=37, compiled=False)
        assert np.array_equal(file.get_tensor("log_mel"), expected)
        about = file.metadata()
    versions = json.loads(about.pop("versions"))
    assert versions["melfront"] == melfront.__version__
    assert set(versions) == {"melfront", "python", "numpy", "soundfile", "soxr"}
    assert about == {
        "clip": str(clip),
        "clip_sha256": melfront.audio.digest(melfront.load_audio(clip)),
        "samples": "9001",
        "n_mels": "37",
        "convention": "transformers",
    }


def test_compare_finds_the_clip(clip, out, monkeypatch):
    monkeypatch.chdir(out)
    assert main(["-o", "sample.safetensors"]) == 0
    assert compare("sample.safetensors").ok
    assert main(["../in/speech.wav", "-o", "speech.safetensors"]) == 0
    assert compare("speech.safetensors").ok
    soundfile.write(clip, Signal("speech", 9_001, seed=4).array(), 16_000)
    with pytest.raises(ParityError, match=r"the clip '../in/speech.wav' is not what the dump was"):
        compare("speech.safetensors")
    clip.unlink()
    with pytest.raises(ParityError, match="which is not here"):
        compare("speech.safetensors")


def test_long_clip_is_split_into_windows(long_clip, out, capsys):
    assert main([str(long_clip), "--n-mels", "37", "-o", str(out / "a.npz")]) == 0
    assert "features (3, 37, 3000)" in capsys.readouterr().out
    audio = melfront.load_audio(long_clip)
    with np.load(out / "a.npz") as file:
        features, mask = file["log_mel"], file["attention_mask"]
    assert mask.sum(axis=1).tolist() == [3_000, 3_000, 251]
    for window, chunk in zip(features, melfront.chunks(audio), strict=True):
        assert np.array_equal(window, melfront.log_mel(chunk, n_mels=37, compiled=False))


def test_several_clips_into_a_folder(clip, out, capsys):
    assert main([str(clip), str(SAMPLE), "-o", str(out), "--plot", str(out)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    names = sorted(path.name for path in out.iterdir())
    assert names == ["sample.png", "sample.safetensors", "speech.png", "speech.safetensors"]


def test_several_clips_without_output(clip, capsys):
    assert main([str(clip), str(SAMPLE)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_existing_file_is_replaced(clip, out):
    path = out / "a.npy"
    path.write_bytes(b"old")
    assert main([str(clip), "-o", str(path)]) == 0
    assert np.load(path).shape == (128, 3_000)
    assert [p.name for p in out.iterdir()] == ["a.npy"]


# Bad input


def test_no_such_file(capsys, out, tmp_path):
    message = fails(capsys, out, tmp_path / "none.wav", "-o", out / "a.npy")
    assert "none.wav: no such file" in message


def test_missing_file_is_reported_before_computing(capsys, out, clip, tmp_path):
    message = fails(capsys, out, clip, tmp_path / "none.wav", "-o", out)
    assert "none.wav: no such file" in message


def test_not_audio(capsys, out, tmp_path):
    (tmp_path / "notes.txt").write_text("not audio\n")
    message = fails(capsys, out, tmp_path / "notes.txt", "-o", out / "a.npy")
    assert "notes.txt: no" in message
    assert "convert it" in message
    assert "audio file" in fails(capsys, out, tmp_path)


def test_empty_clip(capsys, out, tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    message = fails(capsys, out, tmp_path / "empty.wav", "--plot", out / "a.png")
    assert "empty.wav: no samples" in message


@pytest.mark.parametrize(
    ("option", "name"), [("-o", "a.csv"), ("-o", "a"), ("-o", "missing"), ("--plot", "a.pdf")]
)
def test_unknown_ending(capsys, out, clip, option, name):
    message = fails(capsys, out, clip, option, out / name)
    assert f"{name}: unknown ending; expected ." in message


@pytest.mark.parametrize("name", ["missing/a.npy", "speech.wav/a.npy"])
@pytest.mark.parametrize("option", ["-o", "--plot"])
def test_no_such_folder(capsys, out, clip, option, name):
    name = name.replace("npy", "png" if option == "--plot" else "npy")
    message = fails(capsys, out, clip, option, f"{out}/{name}")
    assert f"no such folder to write {Path(name).name} into; make it first" in message


def test_unwritable_folder_is_reported_before_computing(capsys, out, clip, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.setattr(melfront, "stream", None)
    message = fails(capsys, out, clip, "-o", out / "a.npy")
    assert "cannot write there: Permission denied" in message


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.safetensors"])
def test_full_disk_leaves_no_file(capsys, out, clip, monkeypatch, name):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert "No space left on device" in fails(capsys, out, clip, "-o", out / name)


def test_existing_file_survives_a_failed_write(capsys, out, clip, monkeypatch):
    path = out / "a.npy"
    path.write_bytes(b"old")

    def torn(_: IO[bytes], file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shutil, "copyfileobj", torn)
    assert main([str(clip), "-o", str(path)]) == 2
    assert path.read_bytes() == b"old"
    assert [p.name for p in out.iterdir()] == ["a.npy"]


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.safetensors"])
def test_interrupted(capsys, out, clip, monkeypatch, name):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    assert main([str(clip), "-o", str(out / name)]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "melfront: interrupted\n"
    assert list(out.iterdir()) == []


def test_a_closed_pipe_is_not_an_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "melfront", str(SAMPLE), str(SAMPLE)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0


@pytest.mark.parametrize("arguments", [["-o", ""], ["--plot", ""], [""]], ids=lambda a: a[0])
def test_empty_value(capsys, out, arguments):
    message = fails(capsys, out, *arguments)
    assert f"argument {arguments[0] or 'AUDIO'}: the value is empty; give one" in message


def test_one_file_for_several_clips(capsys, out, clip):
    message = fails(capsys, out, clip, SAMPLE, "-o", out / "a.npz")
    assert "one file cannot hold 2 clips; name a folder" in message


def test_two_clips_with_the_same_name(capsys, out, clip, tmp_path):
    other = tmp_path / "speech.flac"
    soundfile.write(other, np.zeros(401), 16_000)
    message = fails(capsys, out, clip, other, "-o", out)
    assert "speech.safetensors; rename one" in message


@pytest.mark.parametrize("n", ["0", "-3", "80.0", "eighty", "", "1000000000"])
def test_n_mels(capsys, out, clip, n):
    message = fails(capsys, out, clip, f"--n-mels={n}", "-o", out / "a.npy")
    assert f"argument --n-mels: {n!r} is not a number of mel bins" in message


def test_unknown_convention(capsys, out, clip):
    message = fails(capsys, out, clip, "--convention", "kaldi", "-o", out / "a.npy")
    assert "'kaldi'" in message
    assert "openai-transcribe" in message


def test_unknown_option(capsys, out, clip):
    assert "--nonsense" in fails(capsys, out, clip, "--nonsense")
