"""Forced comparison, which separates a wrong op from inherited errors; resume; assert_parity."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import melfront
from melfront import parity
from melfront.conventions import Convention
from melfront.encoder import ops, oracle
from melfront.parity import mistakes
from melfront.parity.files.dump import dump
from melfront.parity.pipeline import load_model
from melfront.parity.signals import SIGNALS
from tests.parity.ports import as_float32, front_end_dump, in_type

TOY = load_model("formula:toy")
AUDIO = SIGNALS["toy"].make()
TRACE = parity.trace(AUDIO, TOY)
SPEECH = SIGNALS["speech"].make()
FRONT = parity.trace(SPEECH, n_mels=80, pad_to=None)


def verdicts(report):
    return {s.name: s.verdict for s in report.stages}


def wrong(report):
    return [s.name for s in report.stages if s.verdict != "PASS"]


def front_end(stages, **options):
    return parity.compare(stages, audio=SPEECH, n_mels=80, pad_to=None, **options)


def port(dtype="float32", model=TOY, **functions):
    """Every encoder stage of a port in this dtype with these ops."""
    seen = {}

    def tap(stage, tensor):
        seen[stage] = tensor[0].clone()
        return tensor

    mel = torch.from_numpy(melfront.log_mel(AUDIO, n_mels=7, pad_to=0.22))[None]
    with ops.using(**functions), torch.no_grad():
        in_type(model, dtype)(mel.to(getattr(torch, dtype)), tap=tap)
    return seen


# --- forced ---------------------------------------------------------------------------------------

FRONT_END_OPS = [
    ("symmetric window", "windowed"),
    ("magnitude", "power"),
    ("HTK mel scale", "mel"),
    ("natural logarithm", "log"),
    ("fixed maximum", "clamped"),
    ("offset left out", "features"),
]


@pytest.mark.parametrize(("name", "stage"), FRONT_END_OPS)
def test_one_wrong_op_of_the_front_end(name, stage):
    mine = front_end_dump(SPEECH, mistakes.find(name).convention())
    after = [s for s in mine if list(mine).index(s) >= list(mine).index(stage)]
    assert wrong(front_end(mine)) == after
    report = front_end(mine, forced=True)
    assert wrong(report) == [stage], report
    assert report.forced
    assert [n.name for n in report.diagnosis.named] == [name], report


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("scores not scaled", "scores"),
        ("softmax over the queries", "weights"),
        ("unbiased variance", "attn_ln"),
    ],
)
def test_one_wrong_op_of_one_block(name, stage):
    """The mistake is in block 1 only: scores, weights and norms of block 0 are right."""
    replaced = mistakes.find(name).ops
    count = 0

    def later(slot):
        def function(*arguments):
            nonlocal count
            count += 1
            right = getattr(ops, slot)
            # Each slot is called once per block, the norm twice: its third call is in block 1.
            first = 3 if slot == "layer_norm" else 2
            return (replaced[slot] if count == first else right)(*arguments)

        return function

    slot = next(iter(replaced))
    mine = port(**{slot: later(slot)})
    if slot != "layer_norm":  # the trace computes these apart from attention, which stays right
        context = "block.1.attn.context"
        mine[context] = torch.einsum(
            "hqk,khd->qhd",
            mine["block.1.attn.weights"],
            mine["block.1.attn.v"].unflatten(1, (2, 13)),
        ).flatten(1)
        rest = parity.resume({context: mine[context]}, audio=AUDIO, model=TOY)
        names = list(mine)
        for later_stage in names[names.index(context) + 1 :]:
            mine[later_stage] = torch.from_numpy(rest[later_stage]).float()
    where = f"block.1.{stage}" if stage == "attn_ln" else f"block.1.attn.{stage}"
    free = wrong(parity.compare(mine, audio=AUDIO, model=TOY))
    assert free[0] == where
    assert len(free) > 8
    report = parity.compare(mine, audio=AUDIO, model=TOY, forced=True)
    assert wrong(report) == [where], report
    assert [n.name for n in report.diagnosis.named] == [name], report


def test_every_wrong_op_of_the_front_end_is_named():
    names = ("symmetric window", "magnitude", "natural logarithm", "offset left out")
    change = dict(pair for name in names for pair in mistakes.find(name).change)
    report = front_end(front_end_dump(SPEECH, Convention(**change)), forced=True)
    assert wrong(report) == ["windowed", "power", "log", "features"]
    found = [report.diagnosis, *report.others.values()]
    assert [[n.name for n in diagnosis.named] for diagnosis in found] == [[n] for n in names], (
        report
    )
    stages = {stage["name"]: stage for stage in json.loads(report.to_json())["stages"]}
    for stage, name in zip(wrong(report), names, strict=True):
        assert f"{stage}  WRONG" in str(report)
        assert [entry["name"] for entry in stages[stage]["mistakes"]] == [name]
    assert stages["mel"]["mistakes"] == []


def test_every_wrong_op_of_the_blocks_is_named():
    mine = port(**mistakes.find("tanh GELU").ops, **mistakes.find("unbiased variance").ops)
    report = parity.compare(mine, audio=AUDIO, model=TOY, forced=True)
    found = {report.first_wrong.name: report.diagnosis} | report.others
    named = {
        stage: " or ".join(n.name for n in diagnosis.named) for stage, diagnosis in found.items()
    }
    gelus = ["gelu1", "gelu2", "block.0.mlp.gelu", "block.1.mlp.gelu"]
    norms = ["block.0.attn_ln", "block.0.mlp_ln", "block.1.attn_ln", "block.1.mlp_ln", "ln_post"]
    right = dict.fromkeys(gelus, "tanh GELU") | dict.fromkeys(norms, "unbiased variance")
    assert named == right, report


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_correct_port_passes_forced(dtype):
    report = parity.compare(port(dtype), audio=AUDIO, model=TOY, forced=True)
    assert report.ok, report


def test_correct_front_end_passes_forced():
    report = front_end(as_float32(FRONT), forced=True)
    assert report.ok, report


def test_forced_with_some_stages_only():
    mine = front_end_dump(SPEECH, mistakes.find("symmetric window").convention())
    given = {stage: mine[stage] for stage in ("spectrum", "mel", "features")}
    assert wrong(front_end(given)) == list(given)
    assert wrong(front_end(given, forced=True)) == ["spectrum"]


def test_forced_continues_after_a_stage_of_another_shape():
    mine = as_float32(FRONT)
    mine["power"] = mine["power"][:-1]
    report = front_end(mine, forced=True)
    assert wrong(report) == ["power"], report
    assert verdicts(report)["power"] == "SHAPE"


def test_forced_needs_its_own_truth(tmp_path):
    path = tmp_path / "truth.npz"
    dump(path, wanted=["features"], sample=True)
    with pytest.raises(parity.ParityError, match="REFERENCE"):
        parity.compare({"features": FRONT["features"]}, path, forced=True)
    with pytest.raises(parity.ParityError, match="sample"):
        parity.compare(path, forced=True)
    clips = [SPEECH, SPEECH]
    with pytest.raises(parity.ParityError, match="one clip"):
        parity.compare({"features": FRONT["features"]}, audio=clips, pad_to=1.0, forced=True)


# --- resume and trace -----------------------------------------------------------------------------


def test_trace_equals_the_oracle():
    assert list(TRACE) == list(FRONT) + list(
        oracle.trace(TRACE["features"], TOY.state_dict(), TOY.config)
    )
    for stage, tensor in melfront.oracle.trace(SPEECH, n_mels=80, pad_to=None).items():
        np.testing.assert_array_equal(FRONT[stage], tensor)
        assert FRONT[stage].dtype in (np.float64, np.complex128)


@pytest.mark.parametrize("stage", list(TRACE))
def test_resume_from_the_truth_gives_the_truth(stage):
    given = {stage: TRACE[stage], "clamped": TRACE["clamped"]}  # a `mel` alone means the features
    resumed = parity.resume(given, audio=AUDIO, model=TOY)
    assert list(resumed) == list(TRACE)
    for name, tensor in resumed.items():
        np.testing.assert_array_equal(tensor, TRACE[name], err_msg=name)


@pytest.mark.parametrize(
    ("stage", "reaches"),
    [
        ("windowed", "ln_post"),
        ("log", "ln_post"),
        ("gelu1", "ln_post"),
        ("block.1.mlp.fc1", "ln_post"),
    ],
)
def test_resume_propagates_a_change(stage, reaches):
    changed = TRACE[stage] + np.random.default_rng(1).normal(0, 0.1, TRACE[stage].shape)
    resumed = parity.resume({stage: changed}, audio=AUDIO, model=TOY)
    names = list(TRACE)
    for before in names[: names.index(stage)]:
        np.testing.assert_array_equal(resumed[before], TRACE[before])
    np.testing.assert_array_equal(resumed[stage], changed)
    assert np.abs(resumed["ln_post"] - TRACE["ln_post"]).max() > 1e-3


def test_resume_accepts_other_layouts_and_types():
    tensor = torch.from_numpy(TRACE["features"].T.copy()).float()[None]
    resumed = parity.resume({"log_mel": tensor}, audio=AUDIO, model=TOY)
    assert np.abs(resumed["ln_post"] - TRACE["ln_post"]).max() < 1e-4


def test_resume_refuses_another_shape():
    with pytest.raises(parity.ParityError, match=r"features has shape .*expected"):
        parity.resume({"features": TRACE["features"][:-1]}, audio=AUDIO, model=TOY)


# --- assertion ------------------------------------------------------------------------------------


def test_assert_parity_passes():
    parity.assert_parity(FRONT["features"].astype("f4"), "features", audio=SPEECH, pad_to=None)
    parity.assert_parity(TRACE["ln_post"], "last_hidden_state", audio=AUDIO, model=TOY)


def test_assert_parity_fails_with_the_report():
    features = front_end_dump(SPEECH, mistakes.find("symmetric window").convention())["features"]
    with pytest.raises(AssertionError) as error:
        parity.assert_parity(features, "input_features", audio=SPEECH, pad_to=None)
    text = str(error.value)
    assert "features  WRONG" in text
    assert "symmetric window" in text
    assert "divided by 399" in text


def test_importing_modules_does_not_shadow_functions():
    import importlib

    for name in ("compare", "dump", "trace"):
        assert callable(getattr(parity, name))
    importlib.import_module("melfront.parity.comparison.compare")
    importlib.import_module("melfront.parity.files.dump")
    from melfront.parity import compare

    assert compare is parity.compare
    assert callable(parity.dump)


def test_model_is_not_modified():
    model = in_type(TOY, "bfloat16")
    parity.compare({"ln_post": port("bfloat16")["ln_post"]}, audio=AUDIO, model=model)
    assert model.conv1.weight.dtype == torch.bfloat16
