"""Broken, mistyped or unrelated input gives a clear verdict or a one-line error."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch

from melfront import parity
from melfront.parity.files.dump import dump
from melfront.parity.signals import SIGNALS
from tests.parity.commands import FEATURES, SPEECH, assert_one_line
from tests.parity.ports import front_end_dump

TOY = ["--model", "formula:toy"]


# --- exit statuses and JSON -----------------------------------------------------------------------

STAGE_KEYS = {"name", "verdict", "noise", "max_abs", "worst"}
MISTAKE_KEYS = {"name", "sentence", "residual"}


def assert_contract(text):
    """Check the documented form of the JSON report. Extra keys are allowed."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    report = json.loads(text, parse_constant=refuse)
    assert text.count("\n") == 1  # one object on one line
    assert {"stages", "first_wrong", "mistakes"} <= set(report)
    for stage in report["stages"]:
        assert set(stage) >= STAGE_KEYS
        assert stage["verdict"] in ("PASS", "NOISY", "WRONG", "SHAPE", "MISSING")
        assert isinstance(stage["worst"], str)
        assert all(isinstance(stage[k], (float, int, type(None))) for k in ("noise", "max_abs"))
    for mistake in report["mistakes"]:
        assert set(mistake) >= MISTAKE_KEYS
        assert all(isinstance(mistake[key], str) for key in ("name", "sentence"))
    residuals = [mistake["residual"] for mistake in report["mistakes"]]
    assert residuals == sorted(residuals)
    assert report["first_wrong"] in (None, *(stage["name"] for stage in report["stages"]))
    return report


def test_pass(compare, right):
    status, out, err = compare(right)
    assert (status, err) == (0, "")
    assert "features" in out
    assert "PASS" in out
    status, out, _ = compare(right, "--json")
    report = assert_contract(out)
    assert status == 0
    assert report["first_wrong"] is None
    assert report["mistakes"] == []
    assert report["stages"][0]["verdict"] == "PASS"
    assert 0 <= report["stages"][0]["noise"] <= 2


def test_wrong(compare, wrong):
    status, out, err = compare(wrong)
    assert (status, err) == (1, "")
    assert out.splitlines()[-2].startswith("features  WRONG")
    assert "looks like: offset left out" in out
    status, out, _ = compare(wrong, "--json")
    report = assert_contract(out)
    assert status == 1
    assert report["first_wrong"] == "features"
    (mistake,) = report["mistakes"]
    assert mistake["name"] == "offset left out"
    assert mistake["residual"] < 2
    stage = report["stages"][0]
    assert stage["max_abs"] == pytest.approx(1, abs=1e-5)
    assert stage["worst"].startswith("mel ")
    assert " s" in stage["worst"]


def test_noisy_is_a_failure(compare, tmp_path):
    """Five units of noise: between the limits of 2 and 10, whatever a unit is on this CPU."""
    noise = np.random.default_rng(1).normal(0, 1e-4, FEATURES.shape).astype(np.float32)
    np.savez(tmp_path / "mine.npz", features=FEATURES + noise)
    units = assert_contract(compare(tmp_path / "mine.npz", "--json")[1])["stages"][0]["noise"]
    np.savez(tmp_path / "mine.npz", features=FEATURES + noise * np.float32(5 / units))
    status, out, _ = compare(tmp_path / "mine.npz", "--json")
    report = assert_contract(out)
    assert report["stages"][0]["verdict"] == "NOISY"
    assert (status, report["first_wrong"], report["mistakes"]) == (1, "features", [])


def test_json_of_a_dump_with_a_reference(run, clip, tmp_path):
    reference = tmp_path / "truth.safetensors"
    dump(reference, clip, n_mels=80, pad_to=None)
    np.savez(tmp_path / "mine.npz", features=FEATURES, power=np.ones((3, 3)))
    status, out, _ = run("compare", tmp_path / "mine.npz", reference, "--json")
    report = assert_contract(out)
    verdicts = {stage["name"]: stage["verdict"] for stage in report["stages"]}
    assert status == 1
    assert verdicts["features"] == "PASS"
    assert verdicts["power"] == "SHAPE"
    assert verdicts["frames"] == "MISSING"
    assert report["first_wrong"] == "power"


# --- NaN, infinity, constants -------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("everywhere", [False, True])
def test_not_finite(compare, tmp_path, value, dtype, everywhere):
    mine = FEATURES.astype(dtype)
    mine[(...,) if everywhere else (3, 5)] = value
    np.savez(tmp_path / "mine.npz", features=mine)
    status, out, _ = compare(tmp_path / "mine.npz")
    assert status == 1
    assert "WRONG" in out
    assert "mel 0, frame 0" in out if everywhere else "mel 3, frame 5, 0.05 s" in out
    status, out, _ = compare(tmp_path / "mine.npz", "--json")
    report = assert_contract(out)
    assert status == 1
    assert report["first_wrong"] == "features"
    assert report["stages"][0]["verdict"] == "WRONG"
    assert report["stages"][0]["noise"] is None
    assert report["mistakes"] == []


def test_not_finite_in_a_sample(run, clip, tmp_path):
    dump(tmp_path / "mine.npz", clip, n_mels=80, pad_to=None, sample=True, wanted=["features"])
    with np.load(tmp_path / "mine.npz") as archive:
        tensors = dict(archive)
    tensors["features"][7] = np.nan
    np.savez(tmp_path / "mine.npz", **tensors)
    status, out, _ = run("compare", tmp_path / "mine.npz", "--json")
    assert status == 1
    assert assert_contract(out)["stages"][0]["verdict"] == "WRONG"


def test_tiny_error_in_silence(run, tmp_path):
    """A reference of zeros has no scale."""
    soundfile.write(tmp_path / "silence.wav", np.zeros(4001), 16_000)
    options = ("--audio", tmp_path / "silence.wav", "--pad-to", "none")
    truth = parity.trace(np.zeros(4001, np.float32), n_mels=80, pad_to=None)
    mine = {name: truth[name].astype(np.float32) for name in ("frames", "power", "features")}
    np.savez(tmp_path / "mine.npz", **mine)
    assert run("compare", tmp_path / "mine.npz", *options)[0] == 0
    mine["power"][2, 3] = 1e-20
    np.savez(tmp_path / "mine.npz", **mine)
    assert run("compare", tmp_path / "mine.npz", *options)[0] == 1


# --- missing files, wrong names -------------------------------------------------------------------


def test_missing_file(run, tmp_path, right):
    assert_one_line(run("compare", tmp_path / "no.npz"), "no.npz", "no such file")
    assert_one_line(run("compare", right, tmp_path / "no.npz"), "no.npz")
    assert_one_line(run("compare", right, "--audio", tmp_path / "no.wav"), "no.wav")
    assert_one_line(run("dump", tmp_path / "no.wav", "-o", tmp_path / "dump.npz"), "no.wav")


def test_no_tensors(compare, tmp_path):
    (tmp_path / "folder").mkdir()
    assert_one_line(compare(tmp_path / "folder"), "folder", "no tensors")
    np.savez(tmp_path / "mine.npz")
    assert_one_line(compare(tmp_path / "mine.npz"), "no tensors")
    (tmp_path / "mine.pt").write_bytes(b"x")
    assert_one_line(compare(tmp_path / "mine.pt"), "mine.pt", ".npz", ".safetensors")


@pytest.mark.parametrize(
    ("name", "near"), [("featurs", "features"), ("last_hidden", "last_hidden_state"), ("qqq", "")]
)
def test_unknown_stage(compare, run, tmp_path, clip, name, near):
    np.savez(tmp_path / "mine.npz", **{name: FEATURES})
    assert_one_line(compare(tmp_path / "mine.npz"), name, near, "parity stages")
    out = tmp_path / "dump.npz"
    assert_one_line(run("dump", clip, *TOY, "--stages", name, "-o", out), name, "parity stages")
    assert not out.exists()


def test_encoder_stage_without_a_model(compare, tmp_path):
    for name in ("ln_post", "last_hidden_state", "block.0.attn.q", "hidden_states.1"):
        np.savez(tmp_path / "mine.npz", **{name: np.zeros((11, 26), np.float32)})
        assert_one_line(compare(tmp_path / "mine.npz"), "--model")
        np.savez(tmp_path / "mine.npz", **{name: np.zeros((11, 26), "f4"), "features": FEATURES})
        assert_one_line(compare(tmp_path / "mine.npz"), "--model")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "formula:huge"], ["formula:huge", "tiny"]),
        (["--model", "formula:tiny/x"], ["formula:tiny/x"]),
        (["--model", "./no/such/model"], ["no/such/model"]),
        (["--convention", "kaldi"], ["kaldi", "openai"]),
        (["--n-mels", "0"], ["--n-mels 0"]),
        (["--n-mels", "eighty"], ["--n-mels", "eighty"]),
        (["--pad-to", "long"], ["--pad-to"]),
        (["--pad-to", "0.001"], ["pad_to"]),
        (["--pad-to", "nan"], ["--pad-to", "nan"]),
        (["--pad-to", "inf"], ["--pad-to", "inf"]),
        (["--model", "formula:toy", "--n-mels", "80"], ["80", "formula:toy", "7 bins"]),
        (["--nonsense"], ["--nonsense", "--help"]),
        (["REFERENCE", "--forced"], ["REFERENCE"]),
        (["--plot", "no/such/folder/out.png"], ["out.png"]),
        (["--plot", "picture.gif"], ["picture.gif", ".png"]),
    ],
)
def test_wrong_options(run, right, tmp_path, options, words):
    options = [right if option == "REFERENCE" else option for option in options]
    assert_one_line(run("compare", right, *options), *words)


# --- unrelated tensors ----------------------------------------------------------------------------


def test_different_clip(run, clip, tmp_path):
    mine, other = tmp_path / "mine.npz", tmp_path / "other.wav"
    soundfile.write(other, SPEECH[::-1], 16_000, subtype="FLOAT")
    dump(mine, clip, n_mels=80, pad_to=None)
    dump(tmp_path / "other.npz", other, n_mels=80, pad_to=None)
    assert_one_line(run("compare", mine, "--audio", other), "clip.wav", "other.wav", "--audio")
    assert_one_line(run("compare", mine, tmp_path / "other.npz"), "differ in the clip")
    # Without metadata, only the numbers differ, and no known mistake explains them.
    np.savez(tmp_path / "bare.npz", features=FEATURES)
    status, out, _ = run("compare", tmp_path / "bare.npz", tmp_path / "other.npz")
    assert status == 1
    assert "WRONG" in out
    assert "none of the known mistakes" in out


def test_different_model(run, clip, tmp_path):
    mine, quiet = tmp_path / "mine.npz", tmp_path / "quiet.npz"
    toy = SIGNALS["toy"].make()
    soundfile.write(clip, toy, 16_000, subtype="FLOAT")
    dump(mine, clip, "formula:toy")
    dump(quiet, clip, "formula:toy-quiet")
    assert_one_line(run("compare", mine, "--model", "formula:toy-quiet"), "toy-quiet", "--model")
    assert_one_line(run("compare", mine, quiet), "differ in the model")


def test_different_options(run, clip, tmp_path):
    dump(tmp_path / "80.npz", clip, n_mels=80, pad_to=None)
    dump(tmp_path / "128.npz", clip, n_mels=128, pad_to=None)
    dump(tmp_path / "openai.npz", clip, n_mels=80, pad_to=None, convention="openai")
    mine = tmp_path / "80.npz"
    assert_one_line(run("compare", mine, tmp_path / "128.npz"), "mel bins", "80", "128")
    assert_one_line(run("compare", mine, tmp_path / "openai.npz"), "convention")
    status, out, _ = run("compare", mine, "--n-mels", "128")
    assert status == 1
    assert "shape (80, 37), expected (128, 37)" in out


def test_wrong_number_of_frames_or_bins(compare, tmp_path):
    for change in (lambda x: np.pad(x, ((0, 0), (0, 1))), lambda x: x[:, 1:], lambda x: x[:79]):
        features = change(FEATURES)
        np.savez(tmp_path / "mine.npz", features=features)
        status, out, _ = compare(tmp_path / "mine.npz", "--n-mels", "80")
        assert status == 1
        assert f"features  SHAPE    shape {features.shape}, expected (80, 37)" in out


def test_one_frame_too_many_is_named(compare, tmp_path):
    from melfront.parity import mistakes

    features = front_end_dump(SPEECH, mistakes.find("no frame dropped").convention())["features"]
    assert features.shape == (80, 38)
    for given in (features, features.T, features[None]):
        np.savez(tmp_path / "mine.npz", features=given)
        status, out, _ = compare(tmp_path / "mine.npz", "--n-mels", "80")
        assert status == 1
        assert "no frame dropped" in out


def test_torch_tensors():
    """Tensors that require gradients are accepted; integers are not."""
    tensor = torch.from_numpy(FEATURES.copy()).requires_grad_()
    assert parity.compare({"features": tensor}, audio=SPEECH, pad_to=None).ok
    with pytest.raises(parity.ParityError, match="int32"):
        parity.compare({"features": tensor.int()}, audio=SPEECH, pad_to=None)
    with pytest.raises(parity.ParityError, match="features"):
        parity.compare({"features": "a string"}, audio=SPEECH, pad_to=None)
    with pytest.raises(parity.ParityError):
        parity.compare({}, audio=SPEECH)
