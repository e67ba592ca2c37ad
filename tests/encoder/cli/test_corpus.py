"""`melfront encoder` over folders of clips: names, bad files, and what a second run keeps."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from melfront.command import PROGRESS
from melfront.encoder import WhisperEncoder, checkpoint
from melfront.encoder.command import corpus, reading
from tests.encoder.cli.commands import run, write
from tests.encoder.peers import TOY
from tests.signals import sample

WINDOW = TOY.n_frames * 160  # samples
OUTPUTS = ["B.safetensors", "a.safetensors", "sub/a.safetensors", "sub/deeper/c.safetensors"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Clips of 1, 2, 5 and 9 windows of the toy, the last two below folders."""
    pieces = {"a.wav": 1, "B.WAV": 2, "sub/a.wav": 5, "sub/deeper/c.flac": 9}
    for i, (name, n_windows) in enumerate(pieces.items()):
        file = tmp_path / "clips" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        audio = sample()[40_000 + 101 * i :][: n_windows * WINDOW - 7 * i]
        if file.suffix == ".flac":
            pytest.importorskip("soundfile").write(file, audio, 16_000)
        else:
            write(file, audio)
    return tmp_path / "clips"


def contents(out: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(out)): file.read_bytes()
        for file in sorted(out.rglob("*"))
        if not file.is_dir()
    }


def test_a_folder_gives_what_its_clips_give_one_by_one(folder, toy, tmp_path, capsys):
    (folder / "notes.txt").write_text("no clip")
    shutil.copy(folder / "a.wav", folder / "._a.wav")
    out = tmp_path / "new" / "states"
    assert run(folder, "--model", toy, "-o", out) == 0
    assert sorted(contents(out)) == OUTPUTS
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [
        f"{folder}/B.WAV: {2 * WINDOW - 7} samples, 44 frames; hidden states (2, 11, 26)",
        f"written to {out}/B.safetensors: log_mel, attention_mask, last_hidden_state, "
        "hidden_states.0, hidden_states.1, hidden_states.2, hidden_states.3",
    ]
    one = tmp_path / "one.safetensors"
    for clip in ("B.WAV", "a.wav", "sub/a.wav", "sub/deeper/c.flac"):
        assert run(folder / clip, "--model", toy, "-o", one) == 0
        assert (out / clip).with_suffix(".safetensors").read_bytes() == one.read_bytes(), clip


def test_names_that_cannot_be_outputs(folder, toy, tmp_path, capsys):
    twin = Path(shutil.copy(folder / "a.wav", folder / "a.flac"))
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "B.safetensors").mkdir(parents=True)
    for out, words in {
        "out": ("a.flac and", "a.wav would both be written as", "rename one"),
        "out.npz": ("one file cannot hold 4 clips", "folder"),
        "file": ("file is not a folder",),
        "file/below": ("file is not a folder",),
        "taken": ("B.safetensors is a folder",),
    }.items():
        assert run(folder, "--model", toy, "-o", tmp_path / out) == 2
        twin.unlink(missing_ok=out != "out")
        stdout, stderr = capsys.readouterr()
        assert stdout == ""
        assert stderr.count("\n") == 1
        assert all(word in stderr for word in words), stderr
    assert not (tmp_path / "out").exists()


def test_a_slash_makes_a_folder(folder, toy, tmp_path):
    assert run(folder / "a.wav", "--model", toy, "-o", f"{tmp_path / 'new'}/") == 0
    assert list(contents(tmp_path / "new")) == ["a.safetensors"]


def test_the_file_is_laid_out_as_safetensors_does(folder, toy, tmp_path):
    """Its tensors in the same order, without holes."""
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    for dtype in ("float32", "bfloat16"):
        for clip in ("a.wav", "sub/a.wav"):
            assert run(folder / clip, "--model", toy, "--dtype", dtype, "-o", ours) == 0
            with safe_open(ours, "pt") as opened:
                about = opened.metadata()
            save_file(load_file(ours), theirs, metadata=about)
            assert split(ours) == split(theirs)


def split(file: Path) -> tuple[dict, bytes]:
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    assert end % 8 == 0
    return json.loads(content[8:end]), content[end:]


def test_an_npz_holds_the_same_as_a_safetensors(folder, toy, tmp_path):
    clip, file = folder / "sub" / "a.wav", tmp_path / "states.safetensors"
    assert run(clip, "--model", toy, "-o", file) == 0
    assert run(clip, "--model", toy, "-o", tmp_path / "states.npz") == 0
    with np.load(tmp_path / "states.npz", allow_pickle=False) as arrays:
        for name, x in load_file(file).items():
            assert np.array_equal(arrays[name], x.numpy()), name
            assert arrays[name].dtype == x.numpy().dtype
        with safe_open(file, "np") as opened:
            about = opened.metadata()
        assert json.loads(str(arrays["metadata"])) | {"format": "pt"} == about


def test_without_hidden_states(folder, toy, tmp_path):
    clip, file = folder / "sub" / "a.wav", tmp_path / "states.safetensors"
    assert run(clip, "--model", toy, "-o", file) == 0
    whole = load_file(file)
    assert run(clip, "--model", toy, "-o", file, "--no-hidden-states") == 0
    last = load_file(file)
    assert set(last) == {"log_mel", "attention_mask", "last_hidden_state"}
    assert all(x.equal(whole[name]) for name, x in last.items())


def test_bad_clips_stop_nothing_and_are_named_at_the_end(folder, toy, tmp_path, capsys):
    assert run(folder, "--model", toy, "-o", tmp_path / "undisturbed") == 0
    (folder / "0.wav").write_text("no audio")
    write(folder / "sub" / "nan.wav", np.array([0.5, np.nan], dtype=np.float32))
    whole = (folder / "sub" / "a.wav").read_bytes()
    (folder / "sub" / "cut.wav").write_bytes(whole[: len(whole) * 3 // 4])
    capsys.readouterr()
    gone = tmp_path / "gone.wav"
    assert run(folder, gone, "--model", toy, "-o", tmp_path / "out") == 2
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert err.startswith("melfront encoder: 4 of 8 clips could not be read: ")
    for name, word in {
        folder / "0.wav": "convert it",
        folder / "sub" / "nan.wav": "sample 1",
        folder / "sub" / "cut.wav": "cut short",
        gone: "no such file",
    }.items():
        (line,) = [line for line in out.splitlines() if line.startswith(f"not encoded: {name}")]
        assert word in line


def test_one_bar_for_all_clips(folder, toy, tmp_path, monkeypatch, capsys):
    """It counts bytes, of which those of a clip that is kept are none."""
    monkeypatch.setitem(PROGRESS, "delay", 0)
    monkeypatch.setitem(PROGRESS, "mininterval", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    sizes = {file: file.stat().st_size for file in folder.rglob("*.*")}
    out = tmp_path / "out"
    for expected in (sum(sizes.values()), sizes[folder / "B.WAV"]):
        assert run(folder, "--model", toy, "-o", out) == 0
        bars = [bar for bar in capsys.readouterr().err.split("\r") if bar.startswith("4 clips:")]
        assert f"/{tqdm.format_sizeof(expected)} " in bars[-1], bars
        (out / "B.safetensors").unlink()


def test_a_second_run_goes_on(folder, toy, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(folder, "--model", toy, "-o", out) == 0
    before = contents(out)
    (out / "B.safetensors").unlink()
    half = out / "sub" / "a.safetensors"
    half.write_bytes(half.read_bytes()[:-1])
    os.utime(out / "a.safetensors", (1, 1))
    capsys.readouterr()
    assert run(folder, "--model", toy, "-o", out) == 0
    assert contents(out) == before
    assert kept(capsys) == ["a.wav", "c.flac"]
    assert (out / "a.safetensors").stat().st_mtime == 1


@pytest.mark.parametrize("changed", ["audio", "weights", "dtype", "hidden states", "nothing"])
def test_what_another_run_made_is_replaced(changed, folder, toy, tmp_path, capsys):
    out, options = tmp_path / "out", []
    assert run(folder, "--model", toy, "-o", out) == 0
    if changed == "audio":  # of the same length
        write(folder / "a.wav", sample()[60_000 : 60_000 + WINDOW])
    elif changed == "weights":  # one, which no small tensor shows
        weights = WhisperEncoder.from_formula(TOY).state_dict()
        weights["blocks.1.mlp.fc1.weight"][3, 5] += 1
        checkpoint.save_hf(toy, TOY, weights)
    elif changed == "dtype":
        options = ["--dtype", "bfloat16"]
    elif changed == "hidden states":
        options = ["--no-hidden-states"]
    capsys.readouterr()
    assert run(folder, "--model", toy, "-o", out, *options) == 0
    assert len(kept(capsys)) == {"audio": 3, "nothing": 4}.get(changed, 0)
    assert run(folder, "--model", toy, "-o", tmp_path / "fresh", *options) == 0
    assert contents(out) == contents(tmp_path / "fresh")


def test_weights_that_overflow_write_nothing(folder, toy, tmp_path, capsys):
    """Each weight is finite, but the sums are not, and a layer norm makes NaN of them."""
    weights = WhisperEncoder.from_formula(TOY).state_dict()
    weights["conv1.weight"] = weights["conv1.weight"].sign() * 3e38
    checkpoint.save_hf(toy, TOY, weights)
    assert run(folder, "--model", toy, "-o", tmp_path / "out") == 2
    assert "hidden states are not finite" in capsys.readouterr().err
    assert not contents(tmp_path / "out")


def kept(capsys) -> list[str]:
    lines = capsys.readouterr().out.splitlines()
    return sorted(Path(line.split(": kept ")[0]).name for line in lines if ": kept " in line)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_clip_that_changes_while_it_is_read(change, folder, toy, tmp_path, monkeypatch, capsys):
    """It was counted, and now has a window more or fewer: nothing is written of it."""
    counted = reading.counted

    def counted_wrong(clip, check_range):
        *_, total = counted(clip, check_range)
        yield total + change * WINDOW

    monkeypatch.setattr(reading, "counted", counted_wrong)
    assert run(folder, "--model", toy, "-o", tmp_path / "out") == 2
    assert "c.flac: it was changed while it was read" in capsys.readouterr().err
    assert list(contents(tmp_path / "out")) == OUTPUTS[:2]


def test_windows_are_read_ahead_and_few_wait(folder, toy, tmp_path, monkeypatch):
    encode, windows = corpus.tensors_of, reading.windows
    n = {"read": 0, "encoded": 0, "ahead": 0}

    def read(*args):
        for item in windows(*args):
            if isinstance(item, reading.Window):
                n["read"] += 1
                n["ahead"] = max(n["ahead"], n["read"] - n["encoded"])
            yield item

    def encoded(*args):
        n["encoded"] += 1
        return encode(*args)

    monkeypatch.setattr(reading, "windows", read)
    monkeypatch.setattr(corpus, "tensors_of", encoded)
    assert run(folder, "--model", toy, "-o", tmp_path / "out") == 0
    assert n["read"] == n["encoded"] == 17
    assert 1 < n["ahead"] <= 1 + reading.AHEAD
