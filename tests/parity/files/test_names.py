"""The names that other programs give the stages, taken from those programs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import melfront
from melfront import parity
from melfront.parity.files.by_stage import by_stage
from melfront.parity.files.names import stages_of
from melfront.parity.files.tensors import collect
from melfront.parity.pipeline import load_model
from melfront.parity.signals import SIGNALS
from melfront.parity.stages import BLOCK, LN_POST, STEM
from tests.parity.commands import FEATURES, SPEECH, assert_one_line

TOY = load_model("formula:toy")
AUDIO = SIGNALS["toy"].make()
TRACE = parity.trace(AUDIO, TOY)
N_LAYER = TOY.config.n_audio_layer
MEL = torch.from_numpy(melfront.log_mel(AUDIO, n_mels=7, pad_to=0.22))[None]

EVERY = {*STEM, *(stage.in_block(i) for stage in BLOCK for i in range(N_LAYER)), LN_POST}
# What no module returns: the sums and the GELUs of the stem are functions.
NO_MODULE = {"gelu1", "gelu2", "positions"}
INSIDE = {"attn.scores", "attn.weights", "attn.context", "attn_residual"}
MODULES = {s for s in EVERY if s not in NO_MODULE and s.within not in INSIDE}


def judged(tensors):
    """The names of the stages, every one of which passes."""
    report = parity.compare(tensors, audio=AUDIO, model=TOY)
    assert report.ok, report
    return {stage.name for stage in report.stages}


def hooked(model, prefix=""):
    """What every module returns, under its path: of a tuple the first."""
    outputs = {}

    def keep(name):
        def hook(_module, _inputs, output):
            first = output[0] if isinstance(output, tuple) else output
            outputs[prefix + name] = getattr(first, "last_hidden_state", first)

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(keep(name))
    with torch.no_grad():
        model(MEL)
    return {name.rstrip("."): tensor for name, tensor in outputs.items() if name}


def openai_encoder():
    pytest.importorskip("whisper")
    from whisper.model import AudioEncoder, Linear

    c = TOY.config
    encoder = AudioEncoder(
        c.n_mels, c.n_audio_ctx, c.n_audio_state, c.n_audio_head, c.n_audio_layer
    )
    for block in encoder.blocks:  # theirs is four times as wide, the toy's is not
        block.mlp[0], block.mlp[2] = Linear(26, c.n_audio_mlp), Linear(c.n_audio_mlp, 26)
    ours_to_theirs = {"attn.q.": "attn.query.", "attn.k.": "attn.key.", "attn.v.": "attn.value.",
                      "mlp.fc1.": "mlp.0.", "mlp.fc2.": "mlp.2."}  # fmt: skip
    weights = {}
    for name, tensor in TOY.state_dict().items():
        for ours, theirs in ours_to_theirs.items():
            name = name.replace(ours, theirs)
        weights["positional_embedding" if name == "positions" else name] = tensor
    encoder.load_state_dict(weights)
    return encoder


@pytest.mark.parametrize(
    ("attention", "prefix"),
    [("eager", ""), ("sdpa", "model.encoder."), ("sdpa", "module.audio_tower.")],
)
def test_hooks_on_every_module_of_transformers(attention, prefix):
    from tests.encoder.peers import theirs

    outputs = hooked(theirs(TOY, attention), prefix)
    assert judged(outputs) == MODULES
    report = parity.compare(outputs, audio=AUDIO, model=TOY)
    (left_out,) = [line for line in report.about if "left out" in line]
    assert "embed_positions' is a constant table" in left_out


def test_hooks_on_every_module_of_openai_whisper():
    assert judged(hooked(openai_encoder())) == MODULES
    assert judged(hooked(openai_encoder(), "encoder.")) == MODULES


def test_a_wrong_block_is_named_under_its_foreign_name():
    tensors = {f"encoder.layers.{i}": TRACE[f"block.{i}.mlp_residual"] for i in range(N_LAYER)}
    tensors["encoder.layers.1"] = tensors["encoder.layers.1"] + 0.1
    report = parity.compare(tensors, audio=AUDIO, model=TOY)
    assert report.first_wrong.name == "block.1.mlp_residual"


# torch.export takes ten seconds; opset 20 has a Gelu of its own.
@pytest.mark.parametrize(
    ("attention", "exported", "opset"),
    [
        ("sdpa", False, 17),
        ("eager", False, 14),
        pytest.param("eager", True, 18, marks=pytest.mark.slow),
        pytest.param("sdpa", True, 20, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_values_of_an_onnx_graph(tmp_path, attention, exported, opset):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from tests.encoder.peers import theirs

    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = theirs(TOY, attention)

        def forward(self, mel):
            return self.encoder(mel).last_hidden_state

    path = tmp_path / "encoder.onnx"
    torch.onnx.export(
        Wrapper(), (MEL,), path, dynamo=exported, opset_version=opset, output_names=["ln_post"]
    )
    model = onnx.load(path)
    for value in [value for node in model.graph.node for value in node.output]:
        if value != "ln_post":
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(value))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    values = session.run(None, {session.get_inputs()[0].name: MEL.numpy()})
    fused = {s for s in EVERY if s.within in ("attn.scores", "attn.weights")}
    found = judged(dict(zip(names, values, strict=True)))
    assert found == (EVERY - fused if exported and attention == "sdpa" else EVERY)


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("hidden_states_0", "positions"),
        ("hidden_states.1", "block.0.mlp_residual"),
        ("hidden_states[1]", "block.0.mlp_residual"),
        ("encoder_hidden_states_2", "ln_post"),
        ("hidden_states.-1", "ln_post"),
        ("hidden_states[-2]", "block.0.mlp_residual"),
        ("base_model.model.model.encoder.layers.1.fc1", "block.1.mlp.fc1"),
        ("_orig_mod.encoder.conv1", "conv1"),
        ("anything.at.all.layers.0.self_attn.k_proj", "block.0.attn.k"),
        ("layers_0_self_attn_out_proj", "block.0.attn.out"),
        ("layers.1.output", "block.1.mlp_residual"),
        ("block_0_attn_q", "block.0.attn.q"),
        ("audio_tower", "ln_post"),
        ("encoder.last_hidden_state", "ln_post"),
        ("encoder_output_embeds", "ln_post"),
        ("embd_conv", "gelu2"),
        ("log_mel_spectrogram", "features"),
    ],
)  # fmt: skip
def test_names(name, stage):
    assert stages_of([name], N_LAYER) == {name: stage}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("model.decoder.layers.0.fc1", "not of the encoder"),
        ("language_model.model.layers.0", "not of the encoder"),
        ("encoder.layers.0.fc1.weight", "a weight"),
        ("encoder.embed_positions", "a constant table"),
        ("/encoder/layers.0/self_attn/Mul_output_0", "a value inside a stage"),
        ("layers.0.layer_norm", "unknown stage"),
        ("layers.0.input", "unknown stage"),
        ("layers.2", "an encoder of 2 blocks"),
        ("hidden_states[-4]", "an encoder of 2 blocks"),
        ("layers.99999", "below 1000"),
    ],
)
def test_names_of_no_stage(name, why):
    with pytest.raises(parity.ParityError, match=why):
        stages_of([name], N_LAYER)


# --- guests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "guest",
    [np.array(16_000), np.float32(16_000), np.zeros((1, 4), int), np.array("text"), np.ones(3)],
    ids=["integer", "number", "integers", "text", "array"],
)
def test_one_foreign_array_is_left_out(compare, tmp_path, guest):
    np.savez(tmp_path / "mine.npz", log_mel=FEATURES, sampling_rate=guest)
    status, out, _ = compare(tmp_path / "mine.npz")
    assert status == 0
    assert "left out: 'sampling_rate' is no stage's name" in out
    np.savez(tmp_path / "guest.npz", sampling_rate=guest)
    assert_one_line(compare(tmp_path / "guest.npz"), "sampling_rate")


def test_a_mistyped_name_is_left_out_with_the_nearest():
    report = parity.compare({"ln_post": TRACE["ln_post"], "featurs": TRACE["features"]},
                            audio=AUDIO, model=TOY)  # fmt: skip
    assert "left out: 'featurs' is no stage's name; did you mean features?" in report.about


def test_many_foreign_arrays_take_few_lines():
    guests = {f"guest_{i}": np.ones(3) for i in range(100)}
    report = parity.compare({**guests, "log_mel": FEATURES}, audio=SPEECH, pad_to=None)
    assert sum("left out" in line for line in report.about) == 6
    assert "left out: 95 more that are no stages" in report.about


def test_two_names_of_one_stage_that_differ():
    given = {"layers.0.self_attn": TRACE["block.0.attn.out"]}
    given["layers.0.self_attn.out_proj"] = given["layers.0.self_attn"] + 1
    with pytest.raises(parity.ParityError, match=r"two tensors for the stage block\.0\.attn\.out"):
        parity.compare(given, audio=AUDIO, model=TOY)


# --- layouts --------------------------------------------------------------------------------------


def states():
    with torch.no_grad():
        return TOY(MEL, output_hidden_states=True).hidden_states  # L + 1 of (B, T, S)


HIDDEN_STATES = {"positions", "block.0.mlp_residual", "ln_post"}


@pytest.mark.parametrize("name", ["hidden_states", "encoder_hidden_states"])
def test_stacked_hidden_states(name):
    stacked = torch.stack(states())  # (L + 1, B, T, S)
    for given in (stacked, stacked[:, 0], list(states()), states()):
        assert judged({name: given}) == HIDDEN_STATES
    with pytest.raises(parity.ParityError, match="2 hidden states; an encoder of 2 blocks gives 3"):
        judged({name: stacked[1:]})


def test_stacked_hidden_states_without_the_model():
    dump = by_stage(collect({"hidden_states": torch.stack(states())}.items(), ""), None)
    assert list(dump.tensors) == ["positions", "block.0.mlp_residual", "block.1.mlp_residual"]


@pytest.mark.parametrize(
    "layout", ["(1, S, 1, T)", pytest.param("(T, 1, S)", marks=pytest.mark.slow)]
)
def test_layouts_of_core_ml(layout):
    x = TRACE["ln_post"]
    given = {"(1, S, 1, T)": x.T[None, :, None], "(T, 1, S)": x[:, None],
             "(1, T, 1, S)": x[None, :, None]}[layout]  # fmt: skip
    assert judged({"encoder_output_embeds": given}) == {"ln_post"}
    report = parity.compare({"encoder_output_embeds": given + 1}, audio=AUDIO, model=TOY)
    assert report.first_wrong.verdict == "WRONG"
