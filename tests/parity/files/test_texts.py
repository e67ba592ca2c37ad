"""Text, CSV, JSON, raw bytes and flat arrays, in either order and of any number of frames."""

from __future__ import annotations

import json
import time
from contextlib import suppress

import numpy as np
import pytest

import melfront
from melfront import parity
from melfront.conventions import HOP_LENGTH
from melfront.parity.files.tensors import read
from melfront.parity.files.texts import CONVERT
from melfront.parity.pipeline import load_model
from melfront.parity.signals import SIGNALS
from melfront.parity.stages import ParityError
from tests.parity.commands import FEATURES, SPEECH, assert_one_line

TOY = load_model("formula:toy")
TRACE = parity.trace(SIGNALS["toy"].make(), TOY)


def save(path, values):
    if path.suffix in (".txt", ".csv"):
        np.savetxt(
            path, np.atleast_1d(values), fmt="%.8g", delimiter="," if ".csv" in path.name else " "
        )
    elif path.suffix == ".json":
        path.write_text(json.dumps(values.tolist()))
    else:
        kind = {".f16": "<f2", ".f64": "<f8"}.get(path.suffix, "<f4")
        path.write_bytes(values.astype(kind).tobytes())
    return path


# --- kinds of files -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["txt", "csv", "json", "bin", "raw", "f32", "f64"])
@pytest.mark.parametrize("layout", ["whole", "flat", "transposed"])
def test_every_kind(compare, tmp_path, suffix, layout):
    values = {"whole": FEATURES, "flat": FEATURES.reshape(-1), "transposed": FEATURES.T}[layout]
    status, out, _ = compare(save(tmp_path / f"mine.{suffix}", values))
    assert status == 0, out


@pytest.mark.parametrize("suffix", ["csv", "json", "f32"])
def test_a_wrong_one_is_named(compare, tmp_path, suffix):
    status, out, _ = compare(save(tmp_path / f"mine.{suffix}", FEATURES.T.reshape(-1) - 1))
    assert status == 1
    assert "offset left out" in out


def test_half_floats_are_judged_as_such(compare, tmp_path):
    status, out, _ = compare(save(tmp_path / "mine.f16", FEATURES))
    assert status == 0, out
    assert "float16" not in out.splitlines()[-1]


def test_stages_in_one_json_file(tmp_path):
    path = tmp_path / "mine.json"
    held = {k: TRACE[k].astype("f4").tolist() for k in ("features", "ln_post")}
    held["layers.0"] = {"shape": [11, 26], "data": TRACE["block.0.mlp_residual"].ravel().tolist()}
    path.write_text(json.dumps({**held, "version": "1.2", "n_mels": 7}))
    report = parity.compare(path, audio=SIGNALS["toy"].make(), model=TOY)
    assert report.ok, report
    assert [s.name for s in report.stages] == ["features", "block.0.mlp_residual", "ln_post"]
    assert sum("left out" in line for line in report.about) == 2


def test_the_name_of_the_file_is_the_stage(tmp_path):
    path = save(tmp_path / "encoder.layers.0.bin", TRACE["block.0.mlp_residual"])
    report = parity.compare(path, audio=SIGNALS["toy"].make(), model=TOY)
    assert report.ok, report
    assert "flat, position by position" in str(report)


def test_brackets_comments_and_signs(tmp_path):
    (tmp_path / "mel.txt").write_text("# mine\n[[1.5, -2e-3],\n [+3, nan]]\n")
    values = read(tmp_path / "mel.txt").tensors["mel"].values
    assert np.array_equal(values, np.float32([[1.5, -2e-3], [3, np.nan]]), equal_nan=True)


# --- flat arrays ----------------------------------------------------------------------------------


def flat(turned):
    """Every stage flat, in the order of its axes or in the reverse one."""
    tensors = {s: x.T if turned and x.ndim == 2 else x for s, x in TRACE.items()}
    spectrum = TRACE["spectrum"]
    tensors["spectrum"] = np.stack([spectrum.real, spectrum.imag], -1)
    return {stage: x.reshape(-1) for stage, x in tensors.items()}


def test_every_stage_flat_in_either_order():
    for turned in (False, True):
        report = parity.compare(flat(turned), audio=SIGNALS["toy"].make(), model=TOY)
        assert report.ok, report
        notes = {stage.name: " ".join(stage.notes) for stage in report.stages}
        del notes["padded"]
        assert all(note.startswith("flat") for note in notes.values())
        assert notes["features"] == ("flat, frame by frame" if turned else "flat, mel by mel")
        assert (
            notes["ln_post"]
            == f"flat, {'channel by channel' if turned else 'position by position'}"
        )


def test_flat_and_wrong_is_wrong():
    given = {stage: x * 1.01 for stage, x in flat(False).items() if stage in ("log", "conv2")}
    report = parity.compare(given, audio=SIGNALS["toy"].make(), model=TOY)
    assert [stage.verdict for stage in report.stages] == ["WRONG", "WRONG"]


def padded_features(n_mels, seconds):
    """The features of the clip and so many seconds of silence, as whisper.cpp computes them."""
    return melfront.log_mel(SPEECH, n_mels=n_mels, pad_to=len(SPEECH) / 16_000 + seconds)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("order", ["mel by mel", "frame by frame"])
@pytest.mark.parametrize("asked", [True, False])
def test_flat_and_longer(tmp_path, n_mels, order, asked):
    """The debug file of whisper.cpp and llama.cpp: one list, six digits, clip + 30 s."""
    features = padded_features(n_mels, 30)
    flat = (features if order == "mel by mel" else features.T).reshape(-1)
    path = tmp_path / "log_mel_spectrogram.json"
    path.write_text("[" + ", ".join(f"{x:g}" for x in flat) + "]")
    report = parity.compare(path, audio=SPEECH, n_mels=n_mels if asked else None)
    assert report.ok, report
    frames = 3000 + len(SPEECH) // HOP_LENGTH
    note = f"flat, {order}: {frames} frames, of which the first 3000 are compared"
    assert note in report.stages[0].notes


def test_flat_and_wrong_is_named():
    features = padded_features(80, 30)
    report = parity.compare({"log_mel": (features - 1).reshape(-1)}, audio=SPEECH, n_mels=80)
    assert report.first_wrong.verdict == "WRONG"
    assert [n.name for n in report.diagnosis.named] == ["offset left out"]


def test_flat_and_shorter_is_a_part():
    report = parity.compare({"log_mel": FEATURES.reshape(-1)}, audio=SPEECH, n_mels=80)
    assert "the first 37 of 3000 frames are given" in str(report)


def test_flat_of_no_shape():
    report = parity.compare({"log_mel": np.ones(80 * 37 + 1)}, audio=SPEECH, n_mels=80, pad_to=None)
    assert report.first_wrong.verdict == "SHAPE"


# --- what is not read -----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", CONVERT)
def test_other_files_are_told_how_to_convert(compare, tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(b"x" * 100)
    assert_one_line(compare(path), path.name, ".npz", CONVERT[suffix][:30])


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("a.bin", b"\0" * 7, "no whole number of float32s"),
        ("a.bin", b"lmgg" + b"\0" * 100, "a checkpoint"),
        ("log_mel.bin", np.random.default_rng(1).normal(size=960).tobytes(), "beyond 1e20"),
        ("a.f32", b"", "empty"),
        ("a.json", b"", "empty"),
        ("a.json", b"[1, 2", "not whole JSON"),
        ("a.json", b"[" * 100_000, "not whole JSON"),
        ("a.json", b"[[1, 2], [3]]", "equal lengths"),
        ("a.json", b'["x"]', "expected numbers"),
        ("a.json", b"3", "expected a list"),
        ("a.json", b"{}", "no tensors"),
        ("a.json", b'{"a": 1}', "'a'"),
        ("a.json", b"[" + b"9" * 5000 + b"]", "a.json"),
        ("a.txt", b"", "empty"),
        ("a.txt", b"# nothing\n", "a.txt"),
        ("a.txt", b"a letter to somebody", "numbers alone"),
        ("a.txt", b"\xff\xfe\0\0", "numbers alone"),
        ("a.csv", b"1,2\n3,x\n", "numbers alone"),
        ("a.txt", b"1 2 3", "rename it"),
        ("mel.txt", b"first " + b"1 " * 600_000, "too long a list"),
    ],
)
def test_files_that_cannot_be_read(compare, tmp_path, file, content, words):
    (tmp_path / file).write_bytes(content)
    assert_one_line(compare(tmp_path / file), file, words)


def test_too_much_text(compare, tmp_path, monkeypatch):
    monkeypatch.setattr("melfront.parity.files.texts.MOST_TEXT", 1000)
    assert_one_line(compare(save(tmp_path / "log_mel.txt", FEATURES)), "MiB of text", ".npy")


@pytest.mark.parametrize("suffix", ["txt", "csv", "json", "bin"])
def test_every_mutation_is_read_or_refused(tmp_path, suffix):
    draw = np.random.default_rng(len(suffix))
    whole = bytearray(save(tmp_path / f"log_mel.{suffix}", FEATURES).read_bytes())
    start = time.process_time()
    for _ in range(40):
        data = whole.copy()
        for place in draw.integers(0, 300, 3):
            data[place] = draw.choice(list(b"[]{},:\"'-+.e9 \0\xff\nlast sum"))
        (tmp_path / f"mel.{suffix}").write_bytes(data[: draw.choice([len(data), 200])])
        with suppress(ParityError):
            read(tmp_path / f"mel.{suffix}")
    assert time.process_time() - start < 20  # none of them takes more than a fraction of a second
