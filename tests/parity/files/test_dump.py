"""Dumps: their content, their use in a comparison, and that no partial file is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from safetensors import safe_open
from safetensors.numpy import load_file

import melfront
from melfront import parity
from melfront.parity import stages
from melfront.parity.files.dump import dump
from melfront.parity.files.sampling import sample_positions
from melfront.parity.pipeline import load_model
from melfront.parity.signals import SIGNALS
from tests.conftest import CHECKOUT

MODEL = "formula:toy"
AUDIO = SIGNALS["toy"].make()
TRACE = parity.trace(AUDIO, MODEL)
NAMES = [*stages.FRONT_END, *stages.of_encoder(2)]
KINDS = ["dump.npz", "dump.safetensors"]


@pytest.fixture
def clip(tmp_path):
    """The toy's clip as a float32 file, which stores it exactly."""
    path = tmp_path / "clip.wav"
    soundfile.write(path, AUDIO, 16_000, subtype="FLOAT")
    return path


def read(path):
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            tensors = {name: archive[name] for name in archive.files}
        return tensors, json.loads(str(tensors.pop("__metadata__")))
    with safe_open(path, "np") as file:
        return load_file(path), file.metadata()


def wrong(report):
    return [s.name for s in report.stages if s.verdict not in ("PASS", "MISSING")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_round_trip(tmp_path, clip, kind, dtype):
    path = tmp_path / kind
    written = dump(path, clip, MODEL, dtype=dtype)
    tensors, metadata = read(path)
    assert list(written) == NAMES
    assert sorted(tensors) == sorted(NAMES)
    for name in NAMES:
        assert tensors[name].shape == written[name]
        assert tensors[name].dtype == dtype
        truth = TRACE[name]
        if np.iscomplexobj(truth):
            truth = np.stack([truth.real, truth.imag], -1)
        if dtype == "float64":
            np.testing.assert_array_equal(tensors[name], truth)
    assert metadata["clip"] == str(clip)
    assert metadata["model"] == MODEL
    assert metadata["dtype"] == dtype
    assert metadata["n_mels"] == "7"
    assert metadata["melfront"] == melfront.__version__
    assert {k[6:] for k in metadata if k.startswith("floor.")} == set(NAMES)

    for report in (parity.compare(path), parity.compare(path, path)):
        assert report.ok, report
        assert [s.name for s in report.stages] == NAMES
    assert parity.compare(tensors, path).ok
    assert parity.compare(TRACE, path).ok


@pytest.mark.parametrize("kind", KINDS)
def test_dump_as_reference_gives_the_same_verdicts_as_the_truth(tmp_path, clip, kind):
    reference, right = tmp_path / kind, tmp_path / "right.npz"
    dump(reference, clip, MODEL)
    dump(right, clip, MODEL, dtype="float32")
    mine, _ = read(right)
    mine["block.0.mlp.gelu"] = mine["block.0.mlp.gelu"] + np.float32(1e-3)
    for report in (
        parity.compare(mine, reference),
        parity.compare(mine, audio=clip, model=MODEL),
    ):
        assert wrong(report) == ["block.0.mlp.gelu"], report
        assert report.first_wrong.verdict == "WRONG"


def test_missing_stages_are_reported(tmp_path, clip):
    dump(tmp_path / "truth.npz", clip, MODEL)
    report = parity.compare({"features": TRACE["features"]}, tmp_path / "truth.npz")
    assert report.ok
    missing = [s.name for s in report.stages if s.verdict == "MISSING"]
    assert missing == [name for name in NAMES if name != "features"]
    assert f"{len(NAMES) - 1} stages of the reference are MISSING" in str(report)


def test_stage_missing_in_the_reference_is_an_error(tmp_path, clip):
    dump(tmp_path / "truth.npz", clip, MODEL, wanted=["features"])
    with pytest.raises(parity.ParityError, match="ln_post was given, but the reference lacks it"):
        parity.compare({"ln_post": TRACE["ln_post"]}, tmp_path / "truth.npz")


# --- stages and samples ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["features"], ["features"]),
        (["ln_post", "padded"], ["padded", "ln_post"]),
        (["block.1."], [name for name in NAMES if name.startswith("block.1.")]),
        (
            ["block.0.attn.", "gelu1"],
            ["gelu1", *(n for n in NAMES if n.startswith("block.0.attn."))],
        ),
    ],
)
def test_some_stages(tmp_path, clip, kind, wanted, expected):
    path = tmp_path / kind
    assert list(dump(path, clip, MODEL, wanted=wanted)) == expected
    tensors, _ = read(path)
    assert sorted(tensors) == sorted(expected)
    assert parity.compare(path).ok


def test_unknown_stage_is_not_dumped(tmp_path, clip):
    with pytest.raises(parity.ParityError, match="did you mean features"):
        dump(tmp_path / "dump.npz", clip, MODEL, wanted=["featurs"])
    assert not (tmp_path / "dump.npz").exists()


def test_front_end_only(tmp_path, clip):
    path = tmp_path / "dump.npz"
    written = dump(path, clip, n_mels=80, pad_to=1.0)
    assert list(written) == [*stages.FRONT_END]
    assert written["features"] == (80, 100)
    assert parity.compare(path).ok


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("convention", sorted(melfront.CONVENTIONS))
def test_every_convention(tmp_path, clip, kind, convention):
    path = tmp_path / kind
    dump(path, clip, n_mels=80, pad_to=0.5, convention=convention)
    for report in (parity.compare(path), parity.compare(path, path)):
        assert report.ok, report
    assert read(path)[1]["convention"] == convention


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_samples(tmp_path, clip, kind, dtype):
    whole, sample = tmp_path / "whole.npz", tmp_path / kind
    dump(whole, clip, MODEL, dtype=dtype)
    written = dump(sample, clip, MODEL, dtype=dtype, sample=True)
    tensors, metadata = read(sample)
    for name, full in read(whole)[0].items():
        flat = full.reshape(-1)
        assert written[name] == (min(256, flat.size),)
        np.testing.assert_array_equal(tensors[name], flat[sample_positions(name, flat.size)])
        norm = float(metadata[f"norm.{name}"])
        assert norm == pytest.approx(np.linalg.norm(flat.astype(np.float64)), rel=1e-6)
        assert metadata[f"sampled.{name}"] == " ".join(map(str, full.shape))
    assert os.path.getsize(sample) < os.path.getsize(whole)

    for mine, reference in ((sample, None), (sample, whole), (whole, sample), (sample, sample)):
        report = parity.compare(mine, reference)
        assert report.ok, f"{mine} {reference}\n{report}"
        assert len(report.stages) == len(NAMES)


def test_sampled_dump_shows_the_wrong_stage(tmp_path, clip):
    sample = tmp_path / "sample.npz"
    dump(sample, clip, MODEL, sample=True)
    mine = {**TRACE, "block.1.attn.v": TRACE["block.1.attn.v"] * 1.001}
    assert wrong(parity.compare(mine, sample)) == ["block.1.attn.v"]
    short = {**TRACE, "block.1.attn.v": TRACE["block.1.attn.v"][:-1]}
    report = parity.compare(short, sample)
    assert wrong(report) == ["block.1.attn.v"]
    assert report.first_wrong.verdict == "SHAPE"


# --- other machines -------------------------------------------------------------------------------


@pytest.mark.parametrize("sampled", [False, True])
def test_dump_without_its_model_and_clip(tmp_path, clip, sampled):
    """A dump as the reference needs neither; as the candidate, the error names the missing clip."""
    path = tmp_path / "dump.safetensors"
    there = tmp_path / "model"
    save_checkpoint(there)
    dump(path, clip, str(there), sample=sampled)
    clip.unlink()
    (there / "model.safetensors").unlink()
    (there / "config.json").unlink()
    there.rmdir()

    right = {name: tensor.copy() for name, tensor in TRACE.items()}
    report = parity.compare(right, path)
    assert report.ok, report
    right["ln_post"] += 1e-3
    report = parity.compare(right, path)
    assert wrong(report) == ["ln_post"], report
    assert report.diagnosis is None
    assert "not diagnosed: the clip is missing, pass it with --audio" in report.headline()

    with pytest.raises(parity.ParityError, match=r"clip\.wav.*--audio"):
        parity.compare(path)


def save_checkpoint(folder):
    """The toy's weights as a Hugging Face folder."""
    from safetensors.torch import save_file

    from melfront.encoder.checkpoint import hf_name

    folder.mkdir()
    model = load_model("formula:toy")
    weights = {f"model.encoder.{hf_name(k)}": w.clone() for k, w in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config.to_hf()))


# --- no partial files -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_failed_dump_leaves_no_file(tmp_path, clip, kind, error, monkeypatch):
    from melfront.parity.files.tensors import Writer

    write, count = Writer.write, 0

    def failing(self, name, values):
        nonlocal count
        count += 1
        if count == 7:
            raise error("in the middle")
        write(self, name, values)

    monkeypatch.setattr(Writer, "write", failing)
    path = tmp_path / kind
    with pytest.raises(error):
        dump(path, clip, MODEL)
    assert count == 7
    assert list(tmp_path.iterdir()) == [clip]

    path.write_bytes(b"what was there before")
    count = 0
    with pytest.raises(error):
        dump(path, clip, MODEL)
    assert path.read_bytes() == b"what was there before"


def test_killed_dump_leaves_no_file(tmp_path, clip):
    path = tmp_path / "dump.npz"
    command = [sys.executable, "-m", "melfront.parity", "dump", str(clip), "-o", str(path)]
    process = subprocess.Popen([*command, "--model", "formula:tiny"], cwd=CHECKOUT)
    while process.poll() is None and not list(tmp_path.glob(".melfront-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not path.exists()
