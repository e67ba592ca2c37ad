"""Correct kernels pass on every slot, and the report claims no more than was measured."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from melfront.benchmarks.kernel import report, run, slots
from melfront.benchmarks.kernel.outcome import Options
from melfront.benchmarks.kernel.run import judge_file
from melfront.benchmarks.kernel.slots.inputs import Dice
from melfront.benchmarks.kernel.timing import whole
from melfront.benchmarks.kernel.timing.times import REFERENCE, Race
from melfront.encoder import WhisperEncoder, ops
from melfront.parity import noise as measure
from tests.encoder.peers import TOY, features

KERNELS = Path(__file__).parent / "kernels"
EXAMPLES = Path(run.__file__).parents[1] / "examples"
QUICK = Options(threads=1, seed=11, seconds=0.2, whole=False)


def test_command_line_knows_every_slot():
    assert [slot.name for slot in slots.everything()] == list(slots.files())
    for slot in slots.everything():
        assert slot.front_end == slots.of_front_end(slot.name)
        assert slot.call.startswith(f"{slot.name}(")
        assert len(slot.paragraphs) == 3


@pytest.mark.parametrize("slot", slots.files())
def test_template_passes(slot, tmp_path, edges_only):
    path = tmp_path / "kernel.py"
    path.write_text(slots.template(slot))
    outcome = judge_file(str(path), slot, QUICK)
    assert outcome.good, f"{outcome.code}: {outcome.text}"
    assert len(outcome.findings) == len(slots.find(slot).edges(Dice(1)))
    assert outcome.races == {}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("slot", ["gelu", "layer_norm", "linear", "softmax"])
def test_template_passes_in_16_bits(slot, dtype, tmp_path, edges_only):
    body = slots.template(slot)
    if slot != "linear":  # otherwise the template would round after each of its steps
        body += (
            f"\n\nin_float32 = {slot}\n\n\ndef {slot}(*args):\n"
            "    return in_float32(*(a.float() for a in args)).to(args[0].dtype)\n"
        )
    path = tmp_path / "kernel.py"
    path.write_text(body)
    outcome = judge_file(str(path), slot, Options(threads=1, seed=11, dtype=dtype, whole=False))
    assert outcome.verdict == measure.PASS, f"{outcome.code}: {outcome.text}"


@pytest.mark.parametrize(
    "name", ["layer_norm_c", pytest.param("layer_norm_numba", marks=pytest.mark.slow)]
)
def test_example_passes_and_its_ratio_is_printed(name, monkeypatch):
    monkeypatch.setattr(Race, "unclear", lambda self: "")  # even on a busy machine
    if name == "layer_norm_numba":
        pytest.importorskip("numba")
    outcome = judge_file(str(EXAMPLES / f"{name}.py"), "layer_norm", QUICK)
    assert outcome.verdict == measure.PASS, f"{outcome.code}: {outcome.text}"
    assert outcome.arrays == "numpy"
    assert len(outcome.races) == 2
    printed = report.text(outcome)
    assert "vs reference" in printed
    assert "vs numpy" in printed
    timed = printed.partition("\ntime ")[2].splitlines()[1]
    assert len(re.findall(r" [\d.]+x", timed)) == 2, timed
    for race in outcome.races.values():
        assert race.checked >= 1
        assert race.noise < 2


@pytest.mark.parametrize(
    ("slot", "name"),
    [
        ("layer_norm", "layer_norm_numpy"),
        ("mlp", "mlp_torch"),
        ("log_mel", "log_mel_c"),
        pytest.param("log_mel", "log_mel_numba", marks=pytest.mark.slow),
    ],
)
def test_other_examples_pass(slot, name, edges_only):
    if name == "log_mel_numba":
        pytest.importorskip("numba")
    outcome = judge_file(str(EXAMPLES / f"{name}.py"), slot, QUICK)
    assert outcome.verdict == measure.PASS, f"{outcome.code}: {outcome.text}"


TRITON = {
    "layer_norm_triton": "layer_norm",
    "mlp_triton": "mlp",
    "attention_triton": "attention",
    "log_mel_triton": "log_mel",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "layer_norm_triton" else [pytest.mark.slow])
        for name in TRITON
    ],
)
def test_triton_interpreter_is_proved_but_not_timed(name, monkeypatch):
    pytest.importorskip("triton")
    if name != "log_mel_triton":  # the captured cases, truncated, and two others

        def few(slot, options, dice, interpreted):
            assert interpreted
            return [*chosen(slot, options, dice, interpreted)][:3]

        chosen = run.chosen_cases
        monkeypatch.setattr(run, "chosen_cases", few)
    path = EXAMPLES / "gpu" / f"{name}.py"
    outcome = judge_file(str(path), TRITON[name], Options(threads=1, seed=3))
    assert outcome.verdict == measure.PASS, f"{outcome.code}: {outcome.text}"
    assert outcome.interpreted
    assert not outcome.races
    assert " us" not in report.text(outcome)
    assert " ms" not in report.text(outcome)


def test_two_pass_variance_passes_where_one_pass_fails(monkeypatch):
    monkeypatch.setattr(run, "compete", lambda *_args: None)
    right = judge_file(str(KERNELS / "two_pass_variance.py"), "layer_norm", QUICK)
    assert right.good
    offset = {f.case.label: f for f in right.findings}["large offset"]
    assert offset.noise < 2
    wrong = judge_file(str(KERNELS / "one_pass_variance.py"), "layer_norm", QUICK)
    verdicts = {f.case.label: f.verdict for f in wrong.findings}
    assert verdicts.pop("large offset") == "WRONG"
    assert set(verdicts.values()) == {"PASS"}
    assert "one-pass variance" in report.text(wrong)


def test_out_argument_is_filled(edges_only):
    outcome = judge_file(str(KERNELS / "fills_out.py"), "gelu", QUICK)
    assert outcome.verdict == measure.PASS, f"{outcome.code}: {outcome.text}"


def test_file_is_found_from_any_folder(tmp_path, monkeypatch, edges_only):
    """Workers are forked from a server that may have been started in another folder."""
    judge_file(str(EXAMPLES / "layer_norm_numpy.py"), "layer_norm", QUICK)
    (tmp_path / "mine.py").write_text(slots.template("layer_norm"))
    monkeypatch.chdir(tmp_path)
    assert judge_file("mine.py", "layer_norm", QUICK).verdict == measure.PASS


IN_PLACE = ("conv1d_gelu", "block", "log_scale")  # inserted into the model in different ways


def differences(seed):
    """The races that report a difference between the reference and itself."""
    options = Options(threads=1, seed=seed, seconds=0.2, whole=False)
    outcome = judge_file(str(KERNELS / "reference.py"), "layer_norm", options)
    assert outcome.verdict == measure.PASS, f"seed {seed}: {outcome.code}: {outcome.text}"
    assert outcome.races
    ratios = [(race, *race.ratio(REFERENCE)) for race in outcome.races.values()]
    return [
        f"seed {seed}: {ratio:.3f}, band {race.band():.3f}"
        for race, ratio, counts in ratios
        if counts and not race.unclear()
    ]


def reference_runs(seeds):
    """A difference must occur twice: a 99 % interval is wrong once in a hundred races."""
    for seed in seeds:
        if differences(seed):
            assert differences(seed) == []


@pytest.mark.parametrize("slot", ["conv1d_gelu", "layer_norm", "gelu", "linear", "mlp"])
def test_whole_encoders_take_the_same_steps(slot, monkeypatch):
    """With our function as the kernel, the MLP has the same pieces: the times are comparable."""
    config = replace(TOY, n_audio_ctx=607)  # more than one piece of the MLP
    model = WhisperEncoder.from_formula(config)
    mel = torch.from_numpy(features(config, batch=1))
    shapes, gelu = [], torch.nn.functional.gelu
    monkeypatch.setattr(
        torch.nn.functional, "gelu", lambda x: shapes.append(tuple(x.shape)) or gelu(x)
    )

    def conv1d_gelu(*args, stride):
        return ops.gelu(ops.conv1d(*args, stride=stride))

    kernel = conv1d_gelu if slot == "conv1d_gelu" else getattr(ops, slot)
    theirs = whole.whole(model, slots.find(slot), kernel)(mel)
    steps, shapes[:] = list(shapes), []
    ours = whole.whole(model, slots.find(slot), None)(mel)
    assert shapes == steps
    assert len(shapes) > 2 + config.n_audio_layer
    assert all(a.equal(b) for a, b in zip(theirs, ours, strict=True))


@pytest.mark.parametrize("arrays", ["torch", "numpy"])
def test_a_kernel_fills_out_in_its_place(arrays):
    """It is not called to find out what its own result looks like."""
    model, slot = WhisperEncoder.from_formula(TOY), slots.find("conv1d_gelu")
    mel = torch.from_numpy(features(TOY, batch=1))

    def conv1d_gelu(x, weight, bias, stride, out):
        given = [a if arrays == "torch" else torch.from_numpy(a.copy()) for a in (x, weight, bias)]
        result = ops.gelu(ops.conv1d(*given, stride))
        out[...] = result if arrays == "torch" else result.numpy()

    kernel = whole.adapted(slot, conv1d_gelu, arrays, True)
    theirs, ours = (whole.whole(model, slot, k)(mel) for k in (kernel, None))
    assert all(a.equal(b) for a, b in zip(theirs, ours, strict=True))


@pytest.mark.parametrize("runs", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_reference_does_not_differ_from_itself(runs, monkeypatch):
    def few(slot, options, dice, interpreted):
        return [*chosen(slot, options, dice, interpreted)][:1]

    chosen = run.chosen_cases
    monkeypatch.setattr(run, "chosen_cases", few)
    reference_runs(range(runs))


@pytest.mark.parametrize(
    "slot",
    ["layer_norm", *(pytest.param(s, marks=pytest.mark.slow) for s in IN_PLACE)],
)
def test_encoder_runs_with_the_kernel_in_its_slot(slot, tmp_path, monkeypatch):
    path = tmp_path / "kernel.py"
    path.write_text(slots.template(slot))
    monkeypatch.setattr(run, "chosen_cases", lambda s, _o, dice, _i: s.edges(dice)[:1])

    def only_whole(_child, outcome, dice, _say):
        run.in_place(outcome, dice)

    monkeypatch.setattr(run, "compete", only_whole)
    options = Options(threads=2, seed=5, seconds=0.1, depth=2)
    outcome = judge_file(str(path), slot, options)
    assert outcome.good, f"{outcome.code}: {outcome.text}"
    whole = outcome.whole
    names = ["positions", "block.0.mlp_residual", "ln_post"]
    assert whole.names == (["features"] if slot == "log_scale" else []) + names
    assert max(whole.noise) < 3
    assert min(whole.noise) > 0
    assert [len(t) >= 3 for t in whole.times] == [True, True]


def test_error_that_only_shows_in_the_whole_encoder(tmp_path, monkeypatch):
    """The kernel is right on every case, but wrong where it sees that the encoder is loaded."""
    path = tmp_path / "kernel.py"
    path.write_text(
        "import sys\nimport torch.nn.functional as F\n\n\n"
        "def layer_norm(x, weight, bias, eps=1e-5):\n"
        "    eps = 1e-2 if 'melfront.encoder' in sys.modules else eps\n"
        "    return F.layer_norm(x, weight.shape, weight, bias, eps)\n"
    )
    monkeypatch.setattr(run, "chosen_cases", lambda s, _o, dice, _i: s.edges(dice)[:1])
    monkeypatch.setattr(run, "compete", lambda _c, outcome, dice, _s: run.in_place(outcome, dice))
    outcome = judge_file(str(path), "layer_norm", Options(threads=2, seed=5, seconds=0.1, depth=1))
    assert outcome.code == "WHOLE"
    assert "positions" not in outcome.text
