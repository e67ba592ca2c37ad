"""`melfront encoder`: interruption, a closed pipe, empty values, and its files in parity."""

import signal
import subprocess
import sys

import pytest

import melfront.parity.__main__  # noqa: F401  # for parity.__main__
from melfront import parity
from melfront.encoder import __main__
from melfront.encoder.command.writing import WindowFile
from tests.conftest import CHECKOUT


@pytest.mark.parametrize(
    "arguments", [["-o", ""], ["--report", ""], ["--model", ""], [""]], ids=lambda words: words[0]
)
def test_empty_value_is_a_usage_error(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        __main__.main(arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"argument {arguments[0] or 'AUDIO'}: the value is empty; give one" in printed.err
    assert printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_interrupted(suffix, tmp_path, monkeypatch, capsys):
    """An interrupt while the file is written leaves no partial file."""

    def interrupted(file, _tensors):
        file.target.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(WindowFile, "write", interrupted)
    assert __main__.main(["-o", str(tmp_path / f"out{suffix}")]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "melfront encoder: interrupted\n"
    assert not list(tmp_path.iterdir())


def test_closed_pipe_is_not_an_error(tmp_path):
    command = subprocess.Popen(
        [sys.executable, "-m", "melfront.encoder"],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    command.stdout.close()
    assert command.stderr.read() == b""
    assert command.wait() == 0


def test_compare_needs_no_option_for_built_in_inputs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert __main__.main(["-o", "mine.safetensors"]) == 0
    assert parity.__main__.main(["compare", "mine.safetensors"]) == 0
    assert "clip sample, 128 bins, convention transformers, model formula:tiny/128" in (
        capsys.readouterr().out
    )
