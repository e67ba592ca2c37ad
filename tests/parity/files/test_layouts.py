"""The accepted layouts, names, types and files of tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import melfront
from melfront import parity
from melfront.parity import stages
from melfront.parity.pipeline import load_model
from melfront.parity.signals import SIGNALS

SPEECH = SIGNALS["speech"].make()
TOY = load_model("formula:toy")
AUDIO = SIGNALS["toy"].make()  # a clip for the toy
TRACE = parity.trace(AUDIO, TOY)
N_HEAD = TOY.config.n_audio_head


def single(report: parity.Report) -> parity.StageResult:
    (result,) = report.stages
    return result


def compare(tensors, reference=None):
    return parity.compare(tensors, reference, audio=AUDIO, model=TOY)


@pytest.fixture(scope="module")
def features():
    return melfront.log_mel(SPEECH, n_mels=80, pad_to=None)


# --- layouts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda x: x, None),
        (lambda x: x[None], "a batch axis of 1"),
        (lambda x: x[None, None], "2 batch axes of 1"),
        (lambda x: x.T, "transposed"),
        (lambda x: x.T[None], "transposed"),
        (np.asfortranarray, None),
        (lambda x: x[:, ::-1][:, ::-1], None),
        (lambda x: x.astype(">f4"), None),
        (torch.from_numpy, None),
        (lambda x: torch.from_numpy(x).requires_grad_(), None),
    ],
)
def test_features(features, change, note):
    report = parity.compare({"features": change(features)}, audio=SPEECH, pad_to=None)
    assert report.ok, report
    notes = " ".join(single(report).notes)
    assert (note in notes) if note else not notes
    assert not note or note in str(report)


@pytest.mark.parametrize("stage", list(TRACE))
def test_every_stage_with_a_batch_axis(stage):
    # A `mel` alone would be taken for the features.
    report = compare({stage: TRACE[stage][None], "features": TRACE["features"]})
    assert report.ok, report


@pytest.mark.parametrize(
    "stage", [s for s, x in TRACE.items() if x.ndim == 2 and x.shape[0] != x.shape[1]]
)
def test_every_stage_transposed(stage):
    report = compare({stage: TRACE[stage].T, "clamped": TRACE["clamped"].T})
    assert report.ok, report
    assert all(s.notes == ("transposed",) for s in report.stages)


@pytest.mark.parametrize("stage", ["q", "k", "v", "context"])
@pytest.mark.parametrize("order", ["(H, T, D)", "(T, H, D)"])
@pytest.mark.parametrize("batch", [False, True])
def test_separate_heads(stage, order, batch):
    x = TRACE[f"block.1.attn.{stage}"]
    heads = x.reshape(len(x), N_HEAD, -1)
    heads = heads.swapaxes(0, 1) if order == "(H, T, D)" else heads
    report = compare({f"block.1.attn.{stage}": heads[None] if batch else heads})
    assert report.ok, report
    assert f"heads apart, {order}" in single(report).notes


def test_complex_as_pairs_of_real_numbers():
    spectrum = TRACE["spectrum"]
    pairs = np.stack([spectrum.real, spectrum.imag], -1).astype(np.float32)
    for given in (spectrum, spectrum.astype(np.complex64), pairs, pairs[None]):
        report = compare({"spectrum": given})
        assert report.ok, report
    assert not compare({"spectrum": pairs[..., ::-1]}).ok


def test_wrong_tensor_is_wrong_in_every_layout(features):
    wrong = features - 1
    for given in (wrong, wrong.T, wrong[None]):
        report = parity.compare({"features": given}, audio=SPEECH, pad_to=None)
        assert single(report).verdict == "WRONG"
        assert [n.name for n in report.diagnosis.named] == ["offset left out"]


def test_shape_that_matches_no_layout():
    x = TRACE["block.0.attn.q"]
    for given in (x.reshape(-1)[1:], x[:-1], x[:, :-1], x.reshape(2, -1), np.stack([x, x]), x[:0]):
        result = single(compare({"block.0.attn.q": given}))
        assert result.verdict == "SHAPE"
        assert str(given.shape) in result.notes[0]
        assert str(x.shape) in result.notes[0]


def test_batch():
    clips = [SPEECH, SPEECH[:3001] / 2]
    options = {"pad_to": 0.4}
    features = melfront.log_mel(clips, n_mels=80, **options)
    assert parity.compare({"features": features}, audio=clips, **options).ok
    swapped = parity.compare({"features": features[::-1]}, audio=clips, **options)
    assert single(swapped).verdict == "WRONG"
    assert "clip " in single(swapped).worst
    one_of_two = parity.compare({"features": features[0]}, audio=clips, **options)
    assert single(one_of_two).verdict == "SHAPE"
    # A batch of one clip is accepted without its batch axis.
    assert parity.compare({"features": features[:1]}, audio=clips[:1], **options).ok


def test_batch_of_hidden_states():
    clips = [AUDIO, AUDIO[::-1].copy()]
    mel = torch.from_numpy(melfront.log_mel(clips, n_mels=7, pad_to=0.22))
    with torch.no_grad():
        out = TOY(mel, output_hidden_states=True)
    given = {f"hidden_states.{i}": x for i, x in enumerate(out.hidden_states)}
    assert parity.compare(given, audio=clips, model=TOY).ok
    given["hidden_states.1"] = given["hidden_states.1"].flip(0)
    report = parity.compare(given, audio=clips, model=TOY)
    assert report.first_wrong.name == "block.0.mlp_residual"


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["features", "log_mel", "input_features", "mel"])
def test_names_of_the_features(features, name):
    report = parity.compare({name: features}, audio=SPEECH, pad_to=None)
    assert report.ok, report
    assert single(report).name == "features"


@pytest.mark.parametrize("name", ["log_mel", "input_features", "features"])
def test_mel_with_other_stages_is_the_mel_stage(features, name):
    mel = parity.trace(SPEECH, n_mels=80, pad_to=None)["mel"]
    report = parity.compare({name: features, "mel": mel}, audio=SPEECH, pad_to=None)
    assert report.ok, report
    assert [s.name for s in report.stages] == ["mel", "features"]


def test_hidden_states_numbered_as_in_transformers():
    mel = torch.from_numpy(TRACE["features"]).float()[None]
    with torch.no_grad():
        out = TOY(mel, output_hidden_states=True)
    given = {f"hidden_states.{i}": x for i, x in enumerate(out.hidden_states)}
    report = compare({**given, "last_hidden_state": out.last_hidden_state})
    assert report.ok, report
    assert [s.name for s in report.stages] == ["positions", "block.0.mlp_residual", "ln_post"]


def test_stages_are_judged_in_order_of_computation():
    names = list(TRACE)[::-1]
    report = compare({name: TRACE[name] for name in names})
    assert [s.name for s in report.stages] == names[::-1]
    assert names[::-1] == [*stages.FRONT_END, *stages.of_encoder(2)]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("featurs", "features"),
        ("log_mell", "log_mel"),
        ("block.0.attn.score", "block.0.attn.scores"),
        ("block.7.attn.q", "block."),
        ("hidden_states.9", "hidden_states.2"),
        ("xyzzy", ""),
    ],
)
def test_unknown_name(name, hint):
    with pytest.raises(parity.ParityError) as error:
        compare({name: TRACE["features"]})
    assert name in str(error.value)
    assert hint in str(error.value)


def test_two_names_for_one_stage():
    with pytest.raises(parity.ParityError, match="two tensors"):
        compare({"log_mel": TRACE["features"], "input_features": TRACE["features"]})


# --- files ----------------------------------------------------------------------------------------


def save(path, tensors):
    if path.suffix == ".npz":
        np.savez(path, **tensors)
    elif path.suffix == ".safetensors":
        save_file({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in tensors.items()}, path)
    elif path.suffix == ".npy":
        (values,) = tensors.values()
        np.save(path, values)
    else:
        path.mkdir()
        for name, values in tensors.items():
            np.save(path / f"{name}.npy", values)
    return path


@pytest.mark.parametrize("file", ["mine.npz", "mine.safetensors", "folder"])
def test_files_with_several_stages(tmp_path, file):
    given = {k: TRACE[k].astype("f4") for k in ("features", "positions", "block.0.attn.q")}
    report = compare(save(tmp_path / file, given))
    assert report.ok, report
    assert [s.name for s in report.stages] == ["features", "positions", "block.0.attn.q"]


@pytest.mark.parametrize("file", ["mine.npz", "mine.safetensors", "folder", "log_mel.npy"])
def test_files_with_one_stage(tmp_path, features, file):
    path = save(tmp_path / file, {"log_mel": features})
    assert parity.compare(path, audio=SPEECH, pad_to=None).ok
    assert parity.compare(str(path), audio=SPEECH, pad_to=None).ok


# The search for a mistake takes seconds, and `test_files_with_one_stage` reads the other files.
@pytest.mark.parametrize(
    "file",
    [
        "mine.npz",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("mine.safetensors", "folder", "ln_post.npy")
        ),
    ],
)
def test_files_as_reference(tmp_path, file):
    path = save(tmp_path / file, {"ln_post": TRACE["ln_post"]})
    right = {"ln_post": TRACE["ln_post"].astype("f4")}
    assert compare(right, path).ok
    report = compare({"ln_post": right["ln_post"] * np.float32(1.001)}, path)
    assert single(report).verdict == "WRONG"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_types(tmp_path, dtype):
    name = str(dtype).removeprefix("torch.")
    tensors = {"ln_post": torch.from_numpy(TRACE["ln_post"]).to(dtype)}
    save_file(tensors, tmp_path / "mine.safetensors")
    for given in (tensors, tmp_path / "mine.safetensors"):
        result = single(compare(given))
        assert (result.verdict, result.dtype) == ("PASS", name)


def test_16_bits_are_judged_by_their_own_noise():
    rounded = torch.from_numpy(TRACE["ln_post"]).to(torch.bfloat16)
    assert compare({"ln_post": rounded}).ok
    wide = single(compare({"ln_post": rounded.float()}))
    assert (wide.verdict, wide.dtype) == ("PASS", "bfloat16")
    assert "every value is a bfloat16 number: judged as bfloat16" in wide.notes
    rounded = rounded.float()
    rounded[0, 0] += 2.0**-12 * rounded[0, 0].abs()  # one value needs more bits
    assert single(compare({"ln_post": rounded})).verdict == "WRONG"
