"""Weights that are packed once: `prepare` is called for each set, outside the time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from melfront.benchmarks.kernel import record, report, run, slots
from melfront.benchmarks.kernel.outcome import Options
from melfront.benchmarks.kernel.reasons import Refused
from melfront.benchmarks.kernel.run import judge_file
from melfront.benchmarks.kernel.sandbox import caches
from melfront.benchmarks.kernel.sandbox.parent import Sandbox
from melfront.benchmarks.kernel.slots import inputs
from melfront.benchmarks.kernel.slots.inputs import Case, Dice
from melfront.benchmarks.kernel.timing import whole
from melfront.benchmarks.kernel.worker.device import STAND_IN
from melfront.encoder import WhisperEncoder
from melfront.parity import noise as measure
from tests.benchmarks.test_report import outcome
from tests.benchmarks.test_timing import made_up
from tests.encoder.peers import TOY, features

KERNELS = Path(__file__).parents[1] / "kernels"
EXAMPLE = Path(run.__file__).parents[1] / "examples" / "linear_packed.py"
QUICK = Options(threads=1, seed=7, seconds=0.1, whole=False)

# file -> slot, code, text in the reason
REFUSED = {
    "packs_in_its_first_call": ("linear", "PACKED", "weights of an earlier call"),
    "packs_by_address": ("mlp", "PACKED", "weights of an earlier call"),
    "prepares_once": ("linear", "PACKED", "weights of an earlier call"),
    "prepares_the_answer": ("layer_norm", "WRONG", "x noise"),
    "keeps_its_answer": ("layer_norm", "STALE", "an earlier call"),
    "prepares_its_result": ("linear", "ALIAS", "an earlier result"),
    "prepares_in_a_thread": ("layer_norm", "THREAD", "a call leaves 1 thread"),
    "prepares_in_a_process": ("layer_norm", "PROCESS", "leaves"),
    "prepares_in_place": ("layer_norm", "MUTATED", "changes what it is given"),
    "prepare_raises": ("layer_norm", "RAISED", "prepare raises ValueError: one set of weights"),
    "prepare_hangs": ("layer_norm", "HANG", "prepare was not done after 2 s"),
    "prepare_exits": ("layer_norm", "EXIT", "prepare left the process, with status 3"),
}
OTHERS = {"caches_with_the_weights"}  # see test_answers_kept_with_the_weights


@pytest.fixture(autouse=True)
def small_pool(monkeypatch):
    """Fewer random numbers: drawing them would take longer than these small cases."""
    monkeypatch.setattr(inputs, "POOL", 1 << 18)


@pytest.fixture
def few(monkeypatch):
    """Prove the first two edge cases, which count as the encoder's own and so can be timed."""

    def two(slot, _options, dice, _interpreted):
        return [replace(case, seen=True) for case in slot.edges(dice)[:2]]

    monkeypatch.setattr(run, "chosen_cases", two)


@pytest.fixture
def untimed(few, monkeypatch):
    monkeypatch.setattr(run, "compete", lambda *_args: None)


def judged(tmp_path, text, slot="linear", options=QUICK):
    path = tmp_path / "kernel.py"
    path.write_text(text)
    return judge_file(str(path), slot, options)


# --- honest kernels -------------------------------------------------------------------------------

PACKED = """
import torch

CALLS = {"prepare": 0, "linear": 0}


class Packed:
    def __init__(self, weight, bias):
        CALLS["prepare"] += 1
        self.weight, self.bias, self.self = weight.T.contiguous(), bias, self
        self.ballast = torch.ones(4 << 20)  # 16 MiB that only a collection of garbage frees


prepare = lambda weight, bias=None: Packed(weight, bias)


def linear(x, prepared):
    CALLS["linear"] += 1
    out = x @ prepared.weight
    return out if prepared.bias is None else out + prepared.bias
"""
COUNTED = PACKED.replace(
    "    return out if", "    out[0, 0, :2] = torch.tensor([*CALLS.values()])\n    return out if"
)


def order(path, slot="linear", device="cpu"):
    """What a worker with this kernel is told."""
    weights = slots.find(slot).weights
    return {"path": str(path), "slot": slot, "weights": weights, "threads": 1, "device": device}


def test_preparation_is_printed_and_recorded(tmp_path):
    made = outcome(made_up(prepare=1.23e-3), made_up(prepare=4e-5))
    printed = report.text(made)
    assert "\nprepare 1.23 ms, 40 us, once per set of weights, not in the time\n" in printed
    assert [c["prepare"] for c in record.record(made, tmp_path)["cases"]] == [1.23e-3, 4e-5]
    assert "prepare" not in report.text(outcome(made_up()))


@pytest.mark.slow
def test_prepared_kernel_is_timed(tmp_path, few):
    judgement = judged(tmp_path, PACKED)
    assert judgement.verdict == measure.PASS, f"{judgement.code}: {judgement.text}"
    for race in judgement.races.values():
        assert 0 < race.prepare < 1


def test_example_passes(untimed):
    judgement = judge_file(str(EXAMPLE), "linear", QUICK)
    assert judgement.verdict == measure.PASS, f"{judgement.code}: {judgement.text}"


def test_a_device_has_its_own_weights_prepared(tmp_path, untimed):
    on_device = replace(QUICK, device=STAND_IN)
    assert judged(tmp_path, PACKED, options=on_device).verdict == measure.PASS
    changes = (KERNELS / "prepares_in_place.py").read_text()
    assert judged(tmp_path, changes, "layer_norm", on_device).code == "MUTATED"


def test_numpy_arrays_are_prepared(tmp_path, untimed):
    body = EXAMPLE.read_text().replace("weight.T.contiguous()", "weight.T.copy()")
    body = body.replace("torch.addmm(bias, rows, transposed)", "rows @ transposed + bias")
    body = body.replace(".view(*x.shape[:-1], -1)", ".reshape(*x.shape[:-1], -1)")
    judgement = judged(tmp_path, f"{body}\nARRAYS = 'numpy'\n")
    assert (judgement.verdict, judgement.arrays) == ("PASS", "numpy"), (
        f"{judgement.code}: {judgement.text}"
    )
    judgement = judged(
        tmp_path, f"{body}\nARRAYS = 'numpy'\n".replace("return w", "weight *= 1\n    return w")
    )
    assert (judgement.code, "prepare raises" in judgement.text) == ("MUTATED", True), judgement.text


@pytest.mark.parametrize("where", ["cpu", STAND_IN])
def test_prepare_is_called_once_per_set_of_weights(tmp_path, where):
    (tmp_path / "kernel.py").write_text(COUNTED)
    slot, dice = slots.find("linear"), Dice(1)
    case = slot.edges(dice)[0]
    same_weights = dice.vary(case, weights=False)
    with Sandbox(order(tmp_path / "kernel.py", device=where)) as child:
        child.case(case, slot.results(case))
        counts = []
        for content in (case, same_weights, case, dice.vary(case), case):
            child.write(content)
            child.call()
            counts.append(child.copied[0].flatten()[:2].sub(case.args[2][:2]).round().tolist())
    assert counts == [[1, 1], [1, 2], [1, 3], [2, 4], [3, 5]]


def test_what_was_prepared_is_dropped(tmp_path):
    """A kernel that prepares 16 MiB for each set of weights does not hold them for all."""
    (tmp_path / "kernel.py").write_text(PACKED)
    slot, dice = slots.find("linear"), Dice(1)
    case = slot.edges(dice)[0]
    with Sandbox(order(tmp_path / "kernel.py")) as child:
        child.case(case, slot.results(case))
        held = []
        for _ in range(24):
            child.write(dice.vary(case))
            child.call()
            held.append(child.memory())
    # All of them take 368 MiB more than the first. The heap has room for some four in the end and
    # grows no further: they lie between what is kept.
    assert held[-1] - held[0] < 128 << 20, held


# --- the others -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_kernel_is_refused_for_its_own_reason(name, untimed):
    slot, code, words = REFUSED[name]
    options = replace(QUICK, limit=2 if code == "HANG" else 20)
    judgement = judge_file(str(KERNELS / f"{name}.py"), slot, options)
    assert judgement.code == code, f"{judgement.code}: {judgement.text}"
    assert words in judgement.text
    said = report.text(judgement)
    assert ("once per set of weights in `prepare(" in said) == name.startswith("packs")
    assert ("forget what `prepare` made" in said) == (name == "prepares_once")
    if code == "PACKED":
        assert {f.code for f in judgement.findings} == {"PACKED"}


def test_any_of_the_weights_may_be_old(tmp_path, monkeypatch):
    """Every second weight of a block, of which there are too many subsets to try."""
    slot = slots.find("block")
    names = [p.strip() for p in slot.prepare_call[8:-1].split(",")]
    kept = "".join(
        f"    {name} = KEPT.setdefault('{name}', {name}.clone())\n" for name in names[::2]
    )
    head, body = slots.template("block").split(") -> Tensor:\n", 1)
    text = f"{head}) -> Tensor:\n{kept}{body}".replace("def block", "KEPT = {}\n\n\ndef block")
    monkeypatch.setattr(run, "chosen_cases", lambda slot, _o, dice, _i: slot.edges(dice)[:1])
    judgement = judged(tmp_path, text, "block")
    assert judgement.code == "PACKED", f"{judgement.code}: {judgement.text}"


@pytest.mark.parametrize("text", ["tanh", "half"])
def test_other_mistakes_are_not_taken_for_old_weights(tmp_path, text, untimed):
    body = slots.template("mlp")
    wrong = body.replace("gelu(linear(x", "0.9 * gelu(linear(x")
    if text == "half":
        wrong = body.replace("fc1_weight, fc1_bias))", "fc1_weight.roll(1, 0), fc1_bias))")
    assert judged(tmp_path, wrong, "mlp").code == "WRONG"


def replayed(path, slot_name="mlp"):
    slot, dice = slots.find(slot_name), Dice(1)
    weights = (*dice.linear(1536, 384), *dice.linear(384, 1536))
    case = Case("", (dice.normal(1, 300, 384), *weights))
    with Sandbox(order(path, slot_name)) as child:
        return caches.replay(child, case, slot.results(case), dice, 8)


def test_answers_kept_with_the_weights(tmp_path):
    with pytest.raises(Refused, match="keeps its answers") as refused:
        replayed(KERNELS / "caches_with_the_weights.py")
    assert refused.value.code == "CACHE"
    text = (KERNELS / "caches_with_the_weights.py").read_text()
    forgets = text.replace("    if key not in known", "    known.clear()\n    if key not in known")
    (tmp_path / "kernel.py").write_text(forgets)
    assert len(replayed(tmp_path / "kernel.py")) == 18


UNUSABLE = {
    "defines prepare, and gelu has no weights": (
        "gelu",
        "prepare = print\n\n\ndef gelu(x):\n    return x\n",
    ),
    "prepare is 3, expected a function": ("linear", "prepare = 3\nlinear = print\n"),
    "the slot is linear(x, prepared), with prepare(weight, bias=None)": (
        "linear",
        "def prepare(weight):\n    return weight\n\n\ndef linear(x, prepared):\n    return x\n",
    ),
    "missing a required argument: 'bias'; the slot is layer_norm(x, prepared, eps=1e-5)": (
        "layer_norm",
        "def prepare(weight, bias):\n    return 1\n\n\ndef layer_norm(x, weight, bias):\n    x\n",
    ),
}


@pytest.mark.parametrize("words", UNUSABLE)
def test_unusable_prepare_is_one_line(words, tmp_path, untimed):
    slot, text = UNUSABLE[words]
    with pytest.raises(Refused) as refused:
        judged(tmp_path, text, slot)
    assert refused.value.code == "SIGNATURE"
    assert words in refused.value.text
    assert "\n" not in refused.value.text


# --- in its place ---------------------------------------------------------------------------------


@pytest.mark.parametrize("slot_name", ["linear", "qkv", "mlp", "layer_norm", "block", "mel"])
def test_the_whole_prepares_each_set_of_weights_once(slot_name):
    model, slot = WhisperEncoder.from_formula(TOY), slots.find(slot_name)
    front_end = slot.front_end
    given = torch.zeros(1, 16_000) if front_end else torch.from_numpy(features(TOY, batch=1))
    sets, calls = [], []

    def prepare(*weights):
        sets.append(weights)
        return weights

    def kernel(x, prepared, *others):
        calls.append(x.shape)
        return slot.ours(x, *prepared, *others)

    adapted = whole.adapted(slot, kernel, "torch", False, prepare)
    theirs = whole.whole(model, slot, adapted)
    runs = [whole.features(given, slot, adapted, 80) if front_end else theirs(given) for _ in "ab"]
    assert all(a.equal(b) for a, b in zip(*runs, strict=True))
    ids = [tuple(map(id, weights)) for weights in sets]
    assert len(set(ids)) == len(ids)
    per_run = len(calls) // 2
    blocks = TOY.n_audio_layer
    expected = {"linear": 6 * blocks, "qkv": blocks, "mlp": blocks, "block": blocks, "mel": 1}
    assert len(sets) == expected.get(slot_name, 2 * blocks + 1)
    assert per_run >= len(sets)


def test_weights_are_the_arrays_after_the_first():
    dice = Dice(1)
    for slot in slots.everything():
        for case in slot.edges(dice):
            arrays = [i for i, a in enumerate(case.args) if isinstance(a, torch.Tensor)]
            if slot.weights:
                assert set(arrays[1:]) <= set(range(1, 1 + slot.weights))
        shown = "# With a function `prepare` of the weights" in slots.template(slot.name)
        assert shown == bool(slot.weights)
        call = slot.prepared_call.partition("), with")[0] + ")"
        names = [p.partition("=")[0] for p in call.rstrip(")").split(", ") if "=" not in p]
        assert not slot.weights or ", ".join(names) in slots.template(slot.name)


def test_linear_prepared_in_torch_only_matches_torch():
    x, w, b = torch.randn(3, 5, 7), torch.randn(11, 7), torch.randn(11)
    scope = {}
    exec(EXAMPLE.read_text(), scope)
    expected = functional.linear(x, w, b)
    assert torch.allclose(scope["linear"](x, scope["prepare"](w, b)), expected, atol=1e-5)
