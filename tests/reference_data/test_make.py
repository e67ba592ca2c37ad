"""The commands of reference_data: help, and one line for invalid input."""

import shutil

import pytest

from melfront.parity.pages import libraries
from melfront.reference_data import floors, make, make_picture, make_sample

COMMANDS = [make, make_picture, make_sample]


def ended(command, *arguments):
    with pytest.raises(SystemExit) as stop:
        command.main(list(arguments))
    return stop.value.code


def assert_one_line(capsys, *words):
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    for word in words:
        assert word in err


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys):
    assert ended(command, "--help") == 0
    out = capsys.readouterr().out
    assert f"usage: python -m {command.__name__}" in out
    assert "example:" in out


def test_help_names_the_parts(capsys):
    ended(make, "--help")
    words = capsys.readouterr().out.replace(",", " ").split()
    assert set(make.PARTS) <= set(words)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("arguments", [("--parts", "x"), ("-x",)])
def test_unknown_options(command, arguments, capsys):
    assert ended(command, *arguments) == 2
    assert_one_line(capsys, arguments[0], "--help")


def test_unknown_parts(capsys, monkeypatch):
    """They are refused before any part is made."""
    monkeypatch.setattr(make, "make", lambda part: pytest.fail(part))
    assert ended(make, "toy", "tin", "") == 2
    assert_one_line(capsys, "tin", "tiny.en", "--help")


def test_unsupported_system(capsys, monkeypatch):
    monkeypatch.setattr(make, "make", lambda part: pytest.fail(part))
    monkeypatch.setattr(floors, "can_be_measured", lambda: False)
    assert ended(make, "toy") == 2
    assert_one_line(capsys, "Linux", "cc")


def test_part_with_missing_libraries_is_kept(capsys, monkeypatch):
    monkeypatch.setattr(libraries, "version", lambda package: None)
    monkeypatch.setattr(make, "write", lambda *_: pytest.fail("written"))
    make.make("libraries")
    assert "what is committed stays" in capsys.readouterr().out


def test_make_sample_without_espeak(capsys, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert make_sample.main([]) == 2
    assert_one_line(capsys, "espeak-ng")


def test_signals_are_reproduced_bit_for_bit(tmp_path, monkeypatch):
    """The command writes the committed files again."""
    monkeypatch.setattr(make, "HERE", tmp_path)
    made = make.Path(make.__file__).parent / "signals"
    make.make("signals")
    assert {p.name for p in tmp_path.glob("signals/*")} == {p.name for p in made.iterdir()}
    for path in made.iterdir():
        assert (tmp_path / "signals" / path.name).read_bytes() == path.read_bytes()


def test_raising_floors_changes_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "dc.80.safetensors"
    shutil.copy(make.HERE / "frontend" / path.name, path)
    arrays, about, dtype = make.parts_of(path)
    noise = {"log": 2 * float(about["floor.log"]), "mel": float(about["floor.mel"]) / 2}
    monkeypatch.setattr(floors, "largest", lambda paths: {str(p): noise for p in paths})
    make.raise_floors([path])
    again, raised, _ = make.parts_of(path)
    assert dtype == "float32"
    assert list(again) == list(arrays)
    assert all((again[name] == arrays[name]).all() for name in arrays)
    changed = {key for key in about if about[key] != raised[key]} - {make.MEASURED_ON}
    assert changed == {"floor.log"}
    assert float(raised["floor.log"]) == noise["log"]
