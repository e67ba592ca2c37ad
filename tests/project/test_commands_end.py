"""How commands fail: one line on stderr, an exit status, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks.__main__
import encoder.__main__
import melfront.__main__
import parity.__main__
from melfront.command import UsageError, exit_status, one_line, replacing
from reference_data import make, make_picture, make_sample
from tests.conftest import CHECKOUT

COMMANDS = [package.__main__ for package in (melfront, encoder, parity, benchmarks)]
COMMANDS += [make, make_picture, make_sample]

NO_MEMORY = [
    MemoryError(),
    MemoryError("Unable to allocate 7.28 TiB for an array"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
                 "allocate memory: you tried to allocate 16 bytes. Error code 12"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:83] data. DefaultCPUAllocator: not enough memory: "
                 "you tried to allocate 16 bytes."),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines."),
    RuntimeError("unable to mmap 9 bytes from file <a>: Cannot allocate memory (12)"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    OSError(12, "Cannot allocate memory"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "closed"),
    [
        ("melfront", ">&-"),
        ("encoder", "2>&-"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("melfront", "2>&-"),
                ("encoder", ">&-"),
                ("parity mistakes", ">&-"),
                ("parity mistakes", "2>&-"),
            ]
        ),
    ],
)
def test_closed_standard_stream(command, closed):
    done = subprocess.run(
        f"{sys.executable} -m {command} {closed}", shell=True, cwd=CHECKOUT, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (done.stdout == b"") == (closed == ">&-")


@pytest.mark.parametrize(
    "command", ["melfront none.wav", "encoder none.wav", "parity dump none.wav"]
)
def test_error_does_not_go_to_stdout(tmp_path, command):
    """With stderr closed, a message must not end up on stdout."""
    command = f"{command} -o {tmp_path / 'out.npz'} 2>&-"
    done = subprocess.run(
        f"{sys.executable} -m {command}", shell=True, cwd=CHECKOUT, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", ["melfront", "encoder", "parity stages"])
def test_full_disk(command):
    done = subprocess.run(
        f"{sys.executable} -m {command} >/dev/full", shell=True, cwd=CHECKOUT, capture_output=True
    )
    assert done.returncode == 2, done.stderr
    assert b"No space left on device" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: str(error)[:40])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_out_of_memory(command, error, monkeypatch, capsys):
    def fail(_options):
        raise error

    monkeypatch.setattr(command, "run", fail)
    arguments = ["stages"] if command is parity.__main__ else []
    assert command.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert ": too little memory" in err
    assert err.endswith("; give a shorter clip\n")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_unknown_option_gives_one_line_that_points_to_help(command, capsys):
    name = command.__name__.removesuffix(".__main__")
    words = ["kernel"] if command is benchmarks.__main__ else []
    words += ["stages"] if command is parity.__main__ else []
    with pytest.raises(SystemExit) as stop:
        command.main([*words, "--frobnicate"])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    prog = f"python -m {name}" if "reference_data" in name else name.replace(".", " ")
    prog = " ".join([prog, *(words if words != ["stages"] else [])])
    assert (out, err) == ("", f"{prog}: unrecognized arguments: --frobnicate; see {prog} --help\n")


def test_files_are_written_atomically(tmp_path):
    path = tmp_path / "out.txt"
    for content in ("first", "second"):
        with replacing(path) as temporary:
            assert temporary.parent.parent == tmp_path  # a file is replaced in its own file system
            temporary.write_text(content)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == content

    def interrupted():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_written_file_has_default_permissions(tmp_path):
    """safetensors creates files that only their owner can read."""
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "out") as temporary:
            temporary.touch()
            temporary.chmod(0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640


def test_invalid_output_path(tmp_path):
    with pytest.raises(UsageError, match="no such folder to write out into"):
        replacing(tmp_path / "none" / "out").__enter__()
    with pytest.raises(UsageError, match="a folder; expected the name of a file"):
        replacing(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_exit_statuses(capsys):
    def fails(error):
        def work():
            raise error

        return exit_status("x", work)

    assert exit_status("x", lambda: None) == 0
    assert exit_status("x", lambda: 1) == 1
    assert capsys.readouterr() == ("", "")
    assert fails(UsageError("one\ntwo\x1b[31m")) == 2
    assert capsys.readouterr().err == "x: one two\\x1b[31m\n"
    assert fails(FileNotFoundError(2, "No such file", "a.wav")) == 2
    assert capsys.readouterr().err == "x: a.wav: No such file\n"
    assert fails(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "x: interrupted\n"
    for mistake in (TypeError("ours"), RuntimeError("ours"), AssertionError("ours")):
        with pytest.raises(type(mistake), match="ours"):
            fails(mistake)


def test_one_line():
    assert one_line("a  b\n\tc") == "a b c"
    assert one_line("\x1b\x00\x7f\u202e\ud800é") == r"\x1b\x00\x7f\u202e\ud800é"
    for text in ("x" * 10**6, "\x1b" * 10**6, "begin" + "\n" * 10**6 + "end"):
        assert len(one_line(text)) <= 1000
        assert one_line(text).isprintable()
    assert one_line("begin" + "-" * 10**6 + "end").startswith("begin-")
    assert one_line("begin" + "-" * 10**6 + "end").endswith("-end")
