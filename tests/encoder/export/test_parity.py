"""What other runtimes compute of exported graphs passes `parity.compare`, at every output."""

import numpy as np
import pytest
import torch

import melfront
from melfront import parity
from melfront.encoder import WhisperEncoder
from melfront.encoder.export.graph import FromAudio, FromFeatures, capture
from melfront.parity import signals
from tests.encoder.export.runtimes import RUNTIMES, load, padded

pytest.importorskip("onnxscript")
from melfront.encoder.export.write import write_onnx, write_torch_export

NAMES = ("speech", "noise", "tone")
TOY_SAMPLES = 22 * melfront.HOP_LENGTH  # what formula:toy hears


def exported(graph, folder):
    """The graph in both formats: the file's name without ending."""
    program, file = capture(graph), folder / "graph.onnx"
    write_onnx(program, file, {})
    write_torch_export(program, file.with_suffix(".pt2"), {})
    return file


@pytest.fixture(scope="module")
def front_end(tmp_path_factory):
    return exported(FromAudio(None, 128), tmp_path_factory.mktemp("front_end"))


@pytest.fixture(scope="module", params=["float32", "float16"])
def toy(request, tmp_path_factory):
    dtype = getattr(torch, request.param)
    model = WhisperEncoder.from_pretrained("formula:toy", dtype=dtype)
    graph = FromAudio(model, model.config.n_mels, hidden_states=True)
    return model, exported(graph, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_front_end(runtime, front_end):
    """A batch: the loudest clip must not set the others' maximum."""
    clips = [signals.load(name) for name in (*NAMES, "quiet", "silence")]
    result = load(runtime, front_end)(padded(clips, melfront.N_SAMPLES))
    assert list(result) == ["log_mel"]
    for clip, log_mel in zip(clips, result["log_mel"], strict=True):
        parity.assert_parity(log_mel, "log_mel", audio=clip)


def test_clip_that_fills_its_length(front_end):
    """Reflection at both ends, where the clip has no silence to mirror."""
    clip = np.resize(signals.sample()[40_001:90_001], melfront.N_SAMPLES)
    log_mel = load("onnxruntime", front_end)(clip[None])["log_mel"]
    parity.assert_parity(log_mel, "log_mel", audio=clip)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_samples_to_hidden_states(runtime, toy):
    """All stages, in the unit of their type; three clips at once, and one alone."""
    model, file = toy
    clips = [signals.load(name)[:3001] for name in NAMES]
    given, run = padded(clips, TOY_SAMPLES), load(runtime, file)
    together = run(given)
    dtype = str(model.positions.dtype).removeprefix("torch.")
    assert {name: x.dtype.name for name, x in together.items()} == {
        "last_hidden_state": dtype,
        **{f"hidden_states.{i}": dtype for i in range(3)},
        "log_mel": "float32",
    }
    results = [{name: x[i] for name, x in together.items()} for i in range(len(clips))]
    for clip, result in [*zip(clips, results, strict=True), (clips[0], run(given[:1]))]:
        report = parity.compare(result, audio=clip, model=model)
        assert len(report.stages) == 4  # ln_post is there twice
        assert report.ok, report


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_trained_weights(dtype, tiny_en, tmp_path):
    model = WhisperEncoder.from_pretrained(tiny_en, dtype=getattr(torch, dtype))
    file = exported(FromAudio(model, model.config.n_mels, hidden_states=True), tmp_path)
    clips = [signals.load(name) for name in ("sample", "noise", "tone")]
    given = padded(clips, melfront.N_SAMPLES)
    results = {runtime: load(runtime, file)(given) for runtime in RUNTIMES}
    for runtime, result in results.items():
        for i, clip in enumerate(clips):
            mine = {name: x[i] for name, x in result.items()}
            report = parity.compare(mine, audio=clip, model=model)
            verdicts = {stage.verdict for stage in report.stages}
            # OpenVINO's second convolution is rougher in float32 than torch's: on steady sounds it
            # comes to 2 to 4 x noise. Nothing is WRONG.
            allowed = {"PASS", "NOISY"} if (runtime, dtype) == ("openvino", "float32") else {"PASS"}
            assert verdicts <= allowed, f"{runtime}\n{report}"


@pytest.mark.slow
def test_encoder_alone(tmp_path):
    model = WhisperEncoder.from_pretrained("formula:toy")
    file = exported(FromFeatures(model), tmp_path)
    clip = signals.load("toy")
    mel = melfront.log_mel(clip, n_mels=model.config.n_mels, pad_to=0.22)
    for runtime in RUNTIMES:
        result = load(runtime, file)(mel[None])
        assert list(result) == ["last_hidden_state"]
        assert parity.compare(result, audio=clip, model=model).ok, runtime
