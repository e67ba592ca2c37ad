"""Kernels for some sizes alone: `SHAPES` limits what is proved, and the verdict says so."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from melfront.benchmarks.__main__ import main
from melfront.benchmarks.kernel import record, report, run, slots
from melfront.benchmarks.kernel.outcome import Options, Outcome
from melfront.benchmarks.kernel.proof import cases
from melfront.benchmarks.kernel.reasons import Refused
from melfront.benchmarks.kernel.run import judge_file
from melfront.benchmarks.kernel.slots import inputs, shapes
from melfront.benchmarks.kernel.slots.inputs import Case, Dice
from melfront.benchmarks.kernel.timing import whole
from melfront.benchmarks.kernel.worker import loading
from melfront.encoder import WhisperEncoder
from tests.benchmarks.test_timing import made_up
from tests.encoder.peers import TOY, features

KERNELS = Path(__file__).parents[1] / "kernels"
QUICK = Options(threads=1, seed=7, seconds=0.1, whole=False)
REFUSED = {"declares_too_much": ("layer_norm", "WRONG", "prime size")}

ENCODERS = {"T": 59, "S": 96}  # the sizes of the cases that count as the encoder's own, below
ONLY = """
import torch.nn.functional as F


def layer_norm(x, weight, bias, eps=1e-5):
    if {test}:
        {otherwise}
    return F.layer_norm(x, weight.shape, weight, bias, eps)
"""
RAISES = ONLY.format(test="x.shape[-1] != 96", otherwise="raise ValueError('S must be 96')")


@pytest.fixture(autouse=True)
def small_pool(monkeypatch):
    """Fewer random numbers: drawing them would take longer than these small cases."""
    monkeypatch.setattr(inputs, "POOL", 1 << 18)


@pytest.fixture
def proved(tmp_path, monkeypatch):
    """Prove a kernel on small cases, one of them the encoder's; do not time it."""

    def chosen(slot, _options, dice, _interpreted):
        dice.sizes = ENCODERS
        yield replace(slot.edges(dice)[0], label="speech", seen=True)
        yield from cases.edges(slot, dice)

    def run_it(text, slot="layer_norm"):
        path = tmp_path / "kernel.py"
        path.write_text(text)
        return judge_file(str(path), slot, QUICK)

    monkeypatch.setattr(run, "chosen_cases", chosen)
    monkeypatch.setattr(run, "compete", lambda *_args: None)
    return run_it


# --- the sizes of a case --------------------------------------------------------------------------


@pytest.mark.parametrize("name", slots.files())
def test_every_case_has_one_size_for_each_letter(name):
    slot, dice = slots.find(name), Dice(1)
    known = shapes.letters(slot)
    for case in slot.edges(dice):
        found = shapes.sizes_of(slot, case)
        assert set(found) <= set(known)
        assert all(len(sizes) == 1 for sizes in found.values()), case.label
    first = shapes.sizes_of(slot, slot.edges(dice)[0])
    assert set(known) == set(first), "the docstring names a letter that no case has"


def test_sizes_are_read_from_the_docstring():
    x, weight, bias = torch.zeros(2, 5, 7), torch.zeros(11, 7), torch.zeros(11)
    linear = slots.find("linear")
    sizes = shapes.sizes_of(linear, Case("", (x, weight, bias)))
    assert sizes == {"B": {2}, "T": {5}, "S": {7}, "O": {11}}
    assert shapes.sizes_of(linear, Case("", (x[0], weight))) == {"S": {7}, "O": {11}}
    conv = slots.find("conv1d_gelu")
    case = Case("", (torch.zeros(1, 3, 5), torch.zeros(7, 3, 3), torch.zeros(7)), {"stride": 2})
    expected = {"B": {1}, "C": {3}, "F": {5}, "S": {7}, "stride": {2}}
    assert shapes.sizes_of(conv, case) == expected
    # One clip without an axis for the batch is a batch of one.
    power = Case("", (torch.zeros(5, 201), torch.zeros(80, 201)))
    assert shapes.sizes_of(slots.find("mel"), power)["B"] == {1}


@pytest.mark.parametrize("name", slots.files())
def test_cases_have_the_declared_sizes(name):
    """Each letter by itself: some case has the size, and one of each size comes."""
    slot, dice = slots.find(name), Dice(1)
    fixed = {"K": (201,), "N": (400,)} if slot.front_end else {}  # of the transform of 400 samples
    choices = {"stride": (1, 2), "T": (6, 9), "F": (60, 95), "S": (64, 128), **fixed}
    for letter in shapes.letters(slot):
        dice.shapes = {letter: choices.get(letter, (2, 5))}
        seen = set()
        for case in cases.edges(slot, dice):
            if shapes.fits(slot, case, dice.shapes):
                seen |= shapes.sizes_of(slot, case)[letter]
        assert seen == set(dice.shapes[letter]), letter


def test_captured_cases_of_the_shapes_come_first():
    slot = slots.find("linear")
    every = cases.captured(slot, "tiny", None, torch.float32)
    pieces = cases.captured(slot, "tiny", None, torch.float32, {"T": (375,), "S": (1536,)})
    assert not any(shapes.fits(slot, case, {"S": (1536,)}) for case in every)
    assert shapes.fits(slot, pieces[0], {"T": (375,), "S": (1536,), "B": (1,)})
    assert shapes.fits(slot, pieces[-1], {"T": (375,), "S": (1536,), "B": (2,)})


# --- the verdict ----------------------------------------------------------------------------------


def test_declared_kernel_passes_for_its_sizes(proved, tmp_path):
    outcome = proved(f'SHAPES = {{"S": 96, "T": (59, 61)}}\n{RAISES}')
    printed = report.text(outcome)
    assert "\nPASS for S = 96, T = 59 or 61: 9 cases, 4 of other shapes left out, " in printed
    sizes = [shapes.sizes_of(outcome.slot, f.case) for f in outcome.findings]
    assert [s["S"] for s in sizes] == [{96}] * 9
    assert {59, 61} == set.union(*(s["T"] for s in sizes))
    outcome.races = {0: made_up()}
    path = tmp_path / "runs.jsonl"
    record.append(str(path), outcome)
    (kept,) = record.read(str(path))
    assert (kept["shapes"], kept["left_out"]) == ({"S": [96], "T": [59, 61]}, 4)
    assert "PASS for S = 96, T = 59 or 61" in record.table([kept])


@pytest.mark.parametrize("otherwise", ["raise ValueError('S must be 96')", "return x * 0"])
def test_kernel_without_a_declaration_is_told_of_it(proved, otherwise):
    outcome = proved(ONLY.format(test="x.shape[-1] != 96", otherwise=otherwise))
    assert outcome.code == "SHAPES"
    assert not outcome.good
    printed = report.text(outcome)
    assert "declare them: SHAPES = {" in printed
    assert '"S": 96}' in printed
    declared = "SHAPES" + outcome.hint.partition(": SHAPES")[2]
    assert proved(f"{declared}\n{RAISES}").good


@pytest.mark.parametrize(
    ("test", "otherwise"),
    [
        ("not x.is_contiguous()", "raise ValueError('contiguous only')"),  # of the same sizes
        ("True", "raise ValueError('always')"),
    ],
)
def test_other_failures_are_not_taken_for_a_matter_of_sizes(proved, test, otherwise):
    outcome = proved(ONLY.format(test=test, otherwise=otherwise))
    assert outcome.code == "RAISED"
    assert not outcome.hint


@pytest.mark.parametrize("name", REFUSED)
def test_kernel_that_declares_too_much_is_refused(name, proved):
    slot, code, words = REFUSED[name]
    outcome = proved((KERNELS / f"{name}.py").read_text(), slot)
    assert outcome.code == code, f"{outcome.code}: {outcome.text}"
    assert words in outcome.text


# --- declarations that cannot be used -------------------------------------------------------------

UNUSABLE = {
    '{"Z": 3}': "SHAPES has Z; layer_norm has B, T, S",
    '{"S": 0}': "expected sizes such as",
    '{"S": True}': "expected sizes such as",
    '{"S": ()}': "expected sizes such as",
    '{"S": (96, "all")}': "expected sizes such as",
    '{"S": 96.0}': "expected sizes such as",
    "{3: 96}": "expected sizes such as",
    '["S"]': "expected sizes such as",
    '"S = 96\\n"': "expected sizes such as",
}


@pytest.mark.parametrize("text", UNUSABLE)
def test_unusable_declaration_is_one_line(text):
    module = ModuleType("kernel")
    exec(f"SHAPES = {text}", vars(module))
    with pytest.raises(Refused) as refused:
        shapes.checked(slots.find("layer_norm"), loading.declared(module))
    assert refused.value.code == "SIGNATURE"
    assert UNUSABLE[text] in refused.value.text
    assert "\n" not in refused.value.text


@pytest.mark.parametrize("letter", ["B", "T", "S"])
def test_declaration_of_too_much_memory_is_refused(letter, proved):
    with pytest.raises(Refused, match="more than 134,217,728") as refused:
        proved(f"SHAPES = {{'{letter}': 10 ** 9}}\n{RAISES}")
    assert refused.value.code == "SIGNATURE"


def test_declaration_without_a_case_ends_with_status_2(tmp_path, capsys):
    path = tmp_path / "kernel.py"
    path.write_text(
        "SHAPES = {'K': 7}\n\n\ndef mel(power, filters):\n    return filters @ power.mT\n"
    )
    assert main(["kernel", "mel", str(path), "--no-whole"]) == 2
    printed = capsys.readouterr()
    assert printed.err == f'{path}: SHAPES = {{"K": 7}}: no case of mel has these sizes\n'
    assert not printed.out


# --- timed, and in its place ----------------------------------------------------------------------


def test_what_the_model_never_calls_is_not_timed():
    slot = slots.find("layer_norm")
    outcome = Outcome(slot, "kernel.py", QUICK, shapes={"S": (97,)})
    run.compete(None, outcome, Dice(1), lambda _line: None)
    assert "\nnot timed: the model has no call of these shapes at --size tiny\n" in report.text(
        outcome
    )


def test_calls_of_other_shapes_get_ours_in_the_whole():
    model, slot = WhisperEncoder.from_formula(TOY), slots.find("linear")
    declared = {"S": [TOY.n_audio_state], "O": [TOY.n_audio_state]}
    calls = []

    def kernel(x, weight, bias=None):
        calls.append(weight.shape)
        return slot.ours(x, weight, bias)

    adapted = whole.adapted(slot, kernel, "torch", False, None, declared)
    mel = torch.from_numpy(features(TOY, batch=1))
    theirs, ours = (whole.whole(model, slot, k)(mel) for k in (adapted, None))
    assert all(a.equal(b) for a, b in zip(theirs, ours, strict=True))
    square = (TOY.n_audio_state, TOY.n_audio_state)
    assert set(calls) == {square}
    assert len(calls) == 4 * TOY.n_audio_layer


@pytest.mark.parametrize(
    ("slot", "declared", "expected"),
    [
        ("linear", {"T": (1500,)}, (8, 24)),
        ("linear", {"T": (7,)}, (0, 24)),
        ("block", {"B": (1,)}, (2, 2)),
        ("conv1d_gelu", {"stride": (2,)}, (1, 2)),
        ("mel", {"F": (812,)}, (1, 1)),  # the frames that hear the sample
        ("mel", {"F": (3000,)}, (0, 1)),
    ],
)
def test_calls_of_the_shapes_are_counted(slot, declared, expected):
    model = cases.model("tiny", None, torch.float32, 2)
    before = [name for name, _ in model.named_parameters()]
    assert whole.of_shapes(slots.find(slot), model, declared) == expected
    assert not any("forward" in vars(block) for block in model.blocks)
    assert before == [name for name, _ in model.named_parameters()]
