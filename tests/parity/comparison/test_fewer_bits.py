"""Ports that compute or store in fewer bits: right ones are told so, mistakes on top are named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

import melfront
from melfront import parity
from melfront.encoder import EncoderConfig, WhisperEncoder, ops
from melfront.parity.arithmetic.kinds import FACTORS, STORED
from melfront.parity.arithmetic.products import FORMATS
from melfront.parity.files.dump import dump
from melfront.parity.mistakes import find
from melfront.parity.pytest_plugin import Reference
from melfront.parity.signals import SIGNALS
from tests.parity.commands import soon

# Three blocks of 32 in a row of the state, five in the MLP's: a format of blocks fits.
CONFIG = EncoderConfig(
    n_mels=11, n_audio_ctx=53, n_audio_state=96, n_audio_head=3, n_audio_layer=2, n_audio_mlp=160
)
MODEL = WhisperEncoder.from_formula(CONFIG)
AUDIO = SIGNALS["toy"].make()
PAD_TO = CONFIG.n_frames / 100
GIVEN = {"audio": AUDIO, "model": MODEL, "pad_to": PAD_TO}
HIDDEN = ("positions", "block.0.mlp_residual", "ln_post")


def half(x):
    return x.half().float()


def linear16(x, weight, bias=None):
    return functional.linear(half(x), half(weight), bias)


def conv16(x, weight, bias, stride):
    return functional.conv1d(half(x), half(weight), bias, stride, padding=1)


GGML = {"linear": linear16, "conv1d": conv16}


def port(model=MODEL, stages=HIDDEN, **replaced):
    """The hidden states of a port with these ops, float32."""
    seen = {}
    mel = torch.from_numpy(melfront.log_mel(AUDIO, n_mels=CONFIG.n_mels, pad_to=PAD_TO))[None]
    with torch.no_grad(), ops.using(**replaced):
        model(mel, tap=lambda name, x: seen.setdefault(name, x))
    return {stage: seen[stage][0].numpy() for stage in stages}


def with_matrices(store):
    weights = {
        name: store(w) if name.startswith("blocks.") and w.ndim == 2 else w
        for name, w in MODEL.state_dict().items()
    }
    return WhisperEncoder.from_weights(CONFIG, weights)


def per_tensor(w):
    scale = w.abs().max() / 127
    return (w / scale).round() * scale


def blocks_of_8_bits(w):
    """As somebody writes it who has read of Q8_0: the scale is rounded before it divides."""
    rows = w.reshape(-1, 32)
    scale = half(rows.abs().amax(1, keepdim=True) / 127)
    return ((rows / scale).round().clamp(-127, 127) * scale).reshape(w.shape)


# --- products -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", soon([HIDDEN, ("ln_post",)], HIDDEN))
def test_right_in_float16_products(stages):
    report = parity.compare(port(stages=stages, **GGML), **GIVEN)
    assert report.ok, report
    assert report.headline().startswith("right, in float16 products"), report
    assert "TF32" in str(report)
    asked = parity.compare(port(stages=stages, **GGML), computed_in="float16", **GIVEN)
    assert asked.ok, asked
    assert [s.noise for s in asked.stages] == [s.noise for s in report.stages]
    exact = parity.compare(port(stages=stages, **GGML), computed_in="float32", **GIVEN)
    assert exact.first_wrong.verdict == "WRONG", exact


@pytest.mark.parametrize("stages", soon([HIDDEN, ("ln_post",)], HIDDEN))
def test_mistake_on_top_of_float16_products(stages):
    def gelu(x):  # ggml's table: float16 in, float16 out
        return half(half(x) * torch.sigmoid(1.702 * half(x)))

    report = parity.compare(port(stages=stages, gelu=gelu, **GGML), **GIVEN)
    assert report.first_wrong.name == stages[0], report
    assert [n.name for n in report.diagnosis.named] == ["sigmoid GELU"], report
    assert report.found == "float16 products", report


def test_mistake_in_a_later_block_of_float16_products():
    """The stem tells the arithmetic, and the mistake is searched at its noise."""
    calls = []

    def mlp(*arguments):
        calls.append(1)
        with ops.using(**find("ReLU").ops if len(calls) == 2 else {}):
            return ops.mlp(*arguments)

    report = parity.compare(port(mlp=mlp, **GGML), **GIVEN)
    assert [s.verdict for s in report.stages] == ["PASS", "PASS", "WRONG"], report
    assert [n.name for n in report.diagnosis.named] == ["ReLU"], report


def test_what_products_hide():
    """tanh GELU passes in bfloat16 products, and the report of a PASS says that it would."""
    tanh = {"gelu": find("tanh GELU").ops["gelu"]}
    assert not parity.compare(port(**tanh), computed_in="float32", **GIVEN).ok
    report = parity.compare(port(**tanh), computed_in="bfloat16", **GIVEN)
    assert report.ok, report
    assert "tanh GELU" in report.hidden
    assert "cannot be told at this noise: tanh GELU" in str(report)
    assert not parity.compare(port(), **GIVEN).hidden


def test_products_with_a_reference(no_search, tmp_path):
    """A reference states the noise of float32; that of fewer bits is measured here."""
    dump(tmp_path / "truth.npz", "signal:toy", "formula:toy")
    toy = WhisperEncoder.from_pretrained("formula:toy")
    mel = torch.from_numpy(melfront.log_mel(AUDIO, n_mels=7, pad_to=0.22))[None]
    with torch.no_grad(), ops.using(**GGML):
        out = toy(mel).last_hidden_state
    given = {"ln_post": out}
    assert not parity.compare(given, tmp_path / "truth.npz").ok
    assert parity.compare(given, tmp_path / "truth.npz", computed_in="float16").ok
    with pytest.raises(parity.ParityError, match="leave the REFERENCE out"):
        parity.compare(given, tmp_path / "truth.npz", quantised="int8")


# --- weights --------------------------------------------------------------------------------------

KINDS = {"q8_0-f16": blocks_of_8_bits, "int8-tensor": per_tensor}
KINDS |= {kind: FORMATS[kind] for kind in ("q8_0", "int8", "q5_0", "q4_0", "q5_1", "q4_1")}


@pytest.mark.parametrize("kind", soon(KINDS, "q8_0-f16", "q4_1", "int8-tensor"))
def test_quantised_weights_are_named(kind):
    given = port(with_matrices(KINDS[kind]))
    report = parity.compare(given, **GIVEN)
    assert [s.verdict for s in report.stages] == ["PASS", "QUANTISED", "QUANTISED"], report
    assert report.headline().startswith(f"QUANTISED   right but for {STORED[kind]}"), report
    assert report.diagnosis is None
    assert not report.ok  # nobody said that the weights are not the checkpoint's
    right = port(stages=HIDDEN)
    for stage in report.stages[1:]:
        moved = given[stage.name] - right[stage.name]
        cost = np.sqrt(np.mean(moved**2) / np.mean(right[stage.name] ** 2))
        assert stage.cost == pytest.approx(cost, rel=1e-2)
    assert parity.compare(given, quantised=kind, **GIVEN).ok
    assert parity.compare(given, quantised="none", **GIVEN).first_wrong.verdict == "WRONG"


@pytest.mark.parametrize("options", soon([{}, {"quantised": "q8_0"}], {}))
def test_mistake_on_top_of_quantised_weights(options):
    given = port(with_matrices(FORMATS["q8_0"]), stages=("ln_post",), **find("sigmoid GELU").ops)
    report = parity.compare(given, **options, **GIVEN)
    assert report.first_wrong.verdict == "WRONG", report
    assert [n.name for n in report.diagnosis.named] == ["sigmoid GELU"], report
    assert report.quantised == "q8_0"


def test_ggml_with_quantised_weights_and_activations():
    """Q8_0 in both, float16 in the stem: the stem's arithmetic is found first, then the blocks'."""
    q8_0 = FORMATS["q8_0"]

    def linear(x, weight, bias=None):
        return functional.linear(q8_0(x), weight, bias)

    report = parity.compare(port(with_matrices(q8_0), linear=linear, conv1d=conv16), **GIVEN)
    assert {s.verdict for s in report.stages} <= {"PASS", "QUANTISED"}, report
    assert STORED["q8_0"] in report.found, report
    assert FACTORS["q8_0"] in report.found, report


@pytest.mark.parametrize(("bits", "low", "high"), [("q4_0", -8, 7), ("q5_0", -16, 15)])
def test_blocks_around_zero(bits, low, high):
    """The value of largest magnitude is the lowest integer, whatever its sign."""
    x = torch.linspace(-1, 1, 32)[None] * torch.tensor([[3.0]])
    x[0, -1] = 4.0
    scale = 4.0 / low
    integers = (FORMATS[bits](x) / scale).round()
    assert integers.min() == low
    assert integers.max() <= high
    assert FORMATS[bits](x)[0, -1] == 4.0
    assert (FORMATS[bits](x) - x)[:, :-1].abs().max() <= abs(scale)
    assert not FORMATS[bits](torch.zeros(1, 32)).any()


# --- what a user accepts --------------------------------------------------------------------------


def test_accepted_differences(no_search, tmp_path):
    off = port(layer_norm=lambda x, w, b, eps=0.0: ops.layer_norm(x, w, b, 1e-3))
    exact = {"computed_in": "float32", "quantised": "none", **GIVEN}
    report = parity.compare(off, **exact)
    assert not report.ok
    worst = max(stage.noise for stage in report.stages)
    for accept in (2 * worst, {s.name: 2 * s.noise + 1 for s in report.stages}):
        accepted = parity.compare(off, accept=accept, **exact)
        assert accepted.ok, accepted
        assert "ACCEPTED" in accepted.headline()
    path = tmp_path / "accept.json"
    path.write_text(json.dumps({s.name: 1.25 * s.noise for s in report.stages}))
    reference = Reference(accept=path, **exact)
    reference.check(off["ln_post"], "ln_post")
    worse = port(layer_norm=lambda x, w, b, eps=0.0: ops.layer_norm(x, w, b, 1e-2))
    with pytest.raises(AssertionError, match="ln_post  WRONG"):
        reference.check(worse["ln_post"], "ln_post")
    with pytest.raises(parity.ParityError, match="expected units of noise"):
        parity.compare(off, accept={"ln_post": "many"}, **exact)


def test_accepted_differences_from_the_command_line(no_search, compare, wrong, tmp_path):
    path = tmp_path / "accept.json"
    assert compare(wrong, "--accept-out", path)[0] == 1
    status, out, _ = compare(wrong, "--accept", path)
    assert status == 0, out
    assert "noise accepted" in out
    assert compare(wrong, "--accept", "50")[0] == 1
    assert compare(wrong, "--accept", tmp_path / "none.json")[0] == 2
