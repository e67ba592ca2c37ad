"""The command line: usage, output, and files that cannot be read, written or loaded."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.conftest import CHECKOUT
from tests.parity.commands import FEATURES, assert_one_line


def test_usage(run, tmp_path):
    assert_one_line(run(), "COMMAND")
    assert_one_line(run("compare"), "MINE")
    assert_one_line(run("compere"), "compere", "compare")
    assert_one_line(run("dump"), "-o")
    assert_one_line(run("dump", "-o", tmp_path / "dump.txt"), "dump.txt", ".npz")
    assert_one_line(run("dump", "-o", tmp_path / "no" / "dump.npz"), "no such folder")
    assert_one_line(run("dump", "-o", tmp_path / "x.npz", "--dtype", "float8"), "float8", "float64")
    (tmp_path / "folder.npz").mkdir()
    assert_one_line(run("dump", "--n-mels", "80", "-o", tmp_path / "folder.npz"), "folder")
    assert list((tmp_path / "folder.npz").iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", ""],
        ["compare", "MINE", ""],
        ["compare", "MINE", "--audio", ""],
        ["compare", "MINE", "--model", ""],
        ["compare", "MINE", "--convention", ""],
        ["compare", "MINE", "--plot", ""],
        ["dump", "", "-o", "dump.npz"],
        ["dump", "-o", ""],
        ["dump", "-o", "dump.npz", "--stages", ""],
        ["libraries", "-o", ""],
        ["mistakes", "--table", ""],
    ],
)
def test_empty_arguments(run, right, monkeypatch, arguments):
    """An unset shell variable gives an empty value, which as a path means the current folder."""
    monkeypatch.chdir(right.parent)
    np.save("features.npy", FEATURES)
    result = run(*(right if argument == "MINE" else argument for argument in arguments))
    assert_one_line(result, "the value is empty; give one, or leave it out")


@pytest.mark.parametrize("text", ["xyz", "-1", "0", "nan", "inf", ""])
def test_invalid_seconds(run, right, text):
    assert_one_line(run("compare", right, "--pad-to", text), "expected seconds above 0, or none")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--n-mels", "100000000"], ["--n-mels 100000000", "1000"]),
        (["--n-mels", "1001"], ["--n-mels 1001", "1000"]),
        (["--model", "formula:tiny/100000000"], ["formula:tiny/100000000", "1000"]),
        (["--pad-to", "1e9"], ["--pad-to 1e+09", "3600"]),
        (["--pad-to", "1e300"], ["--pad-to 1e+300", "3600"]),
    ],
)
def test_sizes_beyond_the_limits(run, right, tmp_path, options, words):
    assert_one_line(run("compare", right, *options), *words)
    assert_one_line(run("dump", "-o", tmp_path / "dump.npz", *options), *words)
    assert list(tmp_path.iterdir()) == [right]


@pytest.mark.parametrize(("key", "value"), [("n_mels", "100000000"), ("pad_to", "1e300")])
def test_sizes_beyond_the_limits_in_a_file(run, tmp_path, key, value):
    path = tmp_path / "mine.safetensors"
    save_file({"features": FEATURES}, path, metadata={key: value})
    assert_one_line(run("compare", path), f"{key} '{value}'", "1000" if key == "n_mels" else "3600")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 2, "too little memory; give a shorter clip"),
        (MemoryError("no 9\nGiB"), 2, "too little memory (no 9 GiB); give a shorter clip"),
        (PermissionError(13, "Denied", "a/b.npz"), 2, "parity: a/b.npz: Denied"),
    ],
)
def test_errors_during_the_comparison(run, right, monkeypatch, error, status, words):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("melfront.parity.comparison.compare.compare", fail)
    found, out, err = run("compare", right)
    assert (found, out, err.count("\n")) == (status, "", 1), err
    assert words in err


# --- files to read --------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"\x80\x04random", b"PK, a letter", b"a letter", bytes(9)])
@pytest.mark.parametrize("name", ["features.npz", "features.npy"])
def test_files_not_written_by_numpy(compare, tmp_path, content, name):
    """NumPy takes any unknown file for a pickle, so the message must not mention pickles."""
    (tmp_path / name).write_bytes(content)
    assert_one_line(compare(tmp_path / name), name, f"not a {name[-4:]} file, whatever its name")
    save_file({"features": FEATURES}, tmp_path / name)
    assert_one_line(compare(tmp_path / name), name, f"not a {name[-4:]} file, whatever its name")


def test_archive_without_arrays(compare, tmp_path):
    for name in ("notes.txt", "metadata"):
        with zipfile.ZipFile(tmp_path / "mine.npz", "w") as archive:
            archive.writestr(name, "hello")
        assert_one_line(compare(tmp_path / "mine.npz"), "mine.npz", name)


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "npy"])
def test_unreadable_file(compare, tmp_path, suffix, monkeypatch):
    path = tmp_path / f"features.{suffix}"
    np.save(tmp_path / "features.npy", FEATURES)
    np.savez(tmp_path / "features.npz", features=FEATURES)
    save_file({"features": FEATURES}, tmp_path / "features.safetensors")

    def refuse(name, *_, **__):
        raise PermissionError(13, "Permission denied", str(name))

    monkeypatch.setattr(Path, "open", refuse)  # chmod has no effect for root
    monkeypatch.setattr(np, "load", refuse)
    assert_one_line(compare(path), f"{path}: cannot be read: Permission denied")


def test_default_names_of_numpy_and_file_names(compare, tmp_path):
    np.savez(tmp_path / "mine.npz", FEATURES)
    assert_one_line(compare(tmp_path / "mine.npz"), "arr_0", "np.savez(path, log_mel=...)")
    np.save(tmp_path / "mine.npy", FEATURES[0])
    assert_one_line(compare(tmp_path / "mine.npy"), "mine.npy", "file's name", "log_mel.npy")
    for name in ("mine.npy", "log_mel.npy"):  # any name is accepted for features
        np.save(tmp_path / name, FEATURES)
        assert compare(tmp_path / name)[0] == 0


def test_hints_are_separated(compare, tmp_path):
    for name, hint in (("qqq", ""), ("featurs", "did you mean features? ")):
        np.savez(tmp_path / "mine.npz", **{name: FEATURES})
        text = f"unknown stage {name!r}; {hint}`melfront parity stages` lists them"
        assert_one_line(compare(tmp_path / "mine.npz"), text)


# --- files to write -------------------------------------------------------------------------------

OUTPUTS = [
    ["dump", "--n-mels", "80", "-o", "OUT.npz"],
    ["compare", "MINE", "--plot", "OUT.png"],
    ["libraries", "-o", "OUT.md"],
    ["mistakes", "--table", "OUT.md"],
]


@pytest.fixture
def no_work(monkeypatch):
    """Fail if any work starts: bad input has to be refused first."""

    def fail(*_, **__):
        raise AssertionError("the work was started")

    for name in (
        "files.dump.dump",
        "comparison.compare.compare",
        "pages.libraries_page.report",
        "pages.mistakes_page.write",
    ):
        monkeypatch.setattr(f"parity.{name}", fail)


@pytest.mark.parametrize("arguments", OUTPUTS)
def test_missing_output_folder(run, right, tmp_path, no_work, arguments):
    out = tmp_path / "no" / arguments[-1]
    arguments = [right if argument == "MINE" else argument for argument in arguments]
    assert_one_line(run(*arguments[:-1], out), f"{arguments[-2]} {out}", "no such folder")
    (tmp_path / arguments[-1]).mkdir()
    assert_one_line(run(*arguments[:-1], tmp_path / arguments[-1]), arguments[-2], "a folder")


@pytest.mark.parametrize("arguments", OUTPUTS)
def test_unwritable_output_folder(run, right, tmp_path, no_work, monkeypatch, arguments):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    out = tmp_path / arguments[-1]
    arguments = [right if argument == "MINE" else argument for argument in arguments]
    words = f"{arguments[-2]} {out}: cannot write there: Permission denied"
    assert_one_line(run(*arguments[:-1], out), words)
    assert list(tmp_path.iterdir()) == [right]


def test_pages_are_written_atomically(run, tmp_path, monkeypatch):
    out = tmp_path / "page.md"
    out.write_text("what was there before")
    monkeypatch.setattr("melfront.parity.pages.libraries_page.page", lambda *_: "new")
    monkeypatch.setattr("melfront.parity.pages.libraries_page.judge_all", lambda *_: {})
    monkeypatch.setattr("melfront.parity.pages.mistakes_page.page", lambda *_: "new")
    monkeypatch.setattr("melfront.parity.pages.mistakes_page.front_end_rows", dict)
    monkeypatch.setattr("melfront.parity.pages.mistakes_page.encoder_rows", dict)
    write_text = Path.write_text

    def fail(path, text, **options):
        write_text(path, text[:1], **options)
        raise OSError(28, "No space left on device", str(path))

    for arguments in (["libraries", "-o", out], ["mistakes", "--table", out]):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", fail)
            assert run(*arguments)[0] == 2
        assert out.read_text() == "what was there before"
        assert list(tmp_path.iterdir()) == [out]
        assert run(*arguments)[0] == 0
        assert out.read_text().startswith("new")
        out.write_text("what was there before")


# --- the command in a new process -----------------------------------------------------------------


def command(*arguments):
    command = [sys.executable, "-m", "melfront.parity", *map(str, arguments)]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["stages", "dump", "compare", "mistakes", "libraries"])
def test_help_has_an_example(run, name):
    status, out, _ = run(name, "--help")
    assert status == 0
    assert "usage:" in out
    assert f"example: melfront parity {name}" in out


def test_status_of_the_process(right, wrong, clip, tmp_path):
    options = ("--audio", clip, "--pad-to", "none")
    assert command("compare", right, *options).returncode == 0
    assert command("compare", wrong, *options).returncode == 1
    broken = command("compare", clip, *options)
    assert broken.returncode == 2
    assert broken.stderr.count("\n") == 1


def test_closed_pipe(tmp_path):
    script = f"{sys.executable} -m parity stages | head -1"
    done = subprocess.run(script, shell=True, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.stdout.startswith("padded")
    assert done.stderr == ""


def test_list_of_stages(run):
    status, out, _ = run("stages")
    lines = out.splitlines()
    assert status == 0
    assert len(lines) == 9 + 5 + 14 + 1
    assert lines[0].split()[:1] == ["padded"]
    assert lines[-1].split()[:1] == ["ln_post"]
