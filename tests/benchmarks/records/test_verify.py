"""A record is run again: what holds, what does not, and what cannot be told."""

import json
import shutil

import pytest

from melfront.benchmarks.__main__ import main
from melfront.benchmarks.kernel import run
from melfront.benchmarks.kernel.slots import template
from melfront.benchmarks.kernel.timing.busy import Load
from tests.benchmarks.test_timing import made_up

QUICK = ["--no-whole", "--threads", "1", "--seed", "3"]


@pytest.fixture(scope="module", autouse=True)
def two_cases():
    """Two small cases, and a race that is made up: the kernel is twice as fast as the reference."""

    def compete(_child, outcome, _dice, _say):
        outcome.races[0] = made_up(candidate=0.5e-3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "chosen_cases", lambda slot, _o, dice, _i: slot.edges(dice)[:2])
        patch.setattr(run, "compete", compete)
        yield


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, two_cases):
    """A folder with a kernel and its record, in folders of their own."""
    top = tmp_path_factory.mktemp("recorded")
    kernel, file = top / "kernels" / "mine.py", top / "records" / "runs.jsonl"
    kernel.parent.mkdir()
    file.parent.mkdir()
    kernel.write_text(template("gelu"))
    assert main(["kernel", "gelu", str(kernel), *QUICK, "--json", str(file)]) == 0
    return top


@pytest.fixture
def runs(recorded, tmp_path, capsys):
    """The record, which a test may change."""
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    return tmp_path / "records" / "runs.jsonl"


def changed(runs, change):
    """The file, with a change made to its record."""
    entry = json.loads(runs.read_text())
    change(entry)
    runs.write_text(json.dumps(entry) + "\n")
    return runs


def verified(runs, capsys, *options):
    status = main(["kernel", "--verify", str(runs), *options])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_a_record_holds_wherever_its_folder_is(runs, capsys, tmp_path, monkeypatch):
    first = json.loads(runs.read_text())["run"]
    monkeypatch.chdir(tmp_path)
    status, said, error = verified("records/runs.jsonl", capsys)
    assert (status, error) == (0, "")
    head, *lines = said.splitlines()
    assert head.startswith("gelu  ../kernels/mine.py  holds (run ")
    assert first not in head
    verdict, noise, ratio = (line.strip() for line in lines)
    assert verdict == "verdict: PASS, recorded PASS"
    new, old = noise.removeprefix("error: ").split(" x noise, recorded ")
    assert new == old
    assert ratio.startswith("prime size, ")
    assert "recorded 2.01x, now 2.01x: no further apart than" in ratio


def noisier(entry):
    for case in entry["cases"]:
        case["noise"] = 3 * case["noise"] + 0.2


def faster(entry):
    entry["cases"][0]["ratios"]["reference"]["ratio"] *= 1.3


DIFFER = {
    "verdict": (lambda e: e.update(verdict="NOISY"), "verdict: PASS, recorded NOISY"),
    "code": (lambda e: e.update(verdict="WRONG", code="EXACT"), "recorded WRONG: EXACT"),
    "error": (noisier, "error: "),
    "ratio": (faster, "now 2.01x: further apart than both runs' bands"),
}


@pytest.mark.parametrize("what", DIFFER)
def test_what_differs_does_not_hold(what, runs, capsys):
    change, words = DIFFER[what]
    status, said, error = verified(changed(runs, change), capsys)
    assert (status, error) == (1, "")
    assert "mine.py  does not hold (run " in said.splitlines()[0]
    assert words in said


UNTOLD = {
    "processor": (lambda e: e["machine"].update(cpu="Z80\x1b"), "recorded with cpu Z80\\x1b, and"),
    "cores": (lambda e: e["machine"].update(cores=4096), "recorded with cores 4096"),
    "threads": (lambda e: e["options"].update(threads=4096), "recorded with 4096 threads"),
    "band": (lambda e: e["cases"][0].update(band=1.0), "one of the two runs has no time"),
}


@pytest.mark.parametrize("what", UNTOLD)
def test_ratio_of_another_machine_cannot_be_told(what, runs, capsys):
    change, words = UNTOLD[what]

    def both(entry):
        faster(entry)
        change(entry)

    status, said, error = verified(changed(runs, both), capsys)
    assert (status, error) == (0, "")
    assert f"could not be told: {words}" in said
    assert "\x1b" not in said


def test_ratio_cannot_be_told_on_a_busy_machine(runs, capsys, monkeypatch):
    def compete(_child, outcome, _dice, _say):
        outcome.races[0] = made_up()
        outcome.warning = f"the machine is busy: {Load([]).busy()} meanwhile. Nothing is recorded"

    monkeypatch.setattr(Load, "others", lambda self: 0.5)
    monkeypatch.setattr(run, "compete", compete)
    status, said, _ = verified(runs, capsys)
    assert status == 0
    assert "could not be told: the machine is busy" in said


def test_other_versions_are_named(runs, capsys):
    changed(runs, lambda entry: entry["versions"].update(torch="1.0"))
    status, said, _ = verified(runs, capsys)
    assert status == 0
    assert ", recorded 1.0" in said


def test_a_changed_file_is_not_run(runs, capsys):
    kernel = runs.parents[1] / "kernels" / "mine.py"
    kernel.write_text(kernel.read_text() + f"\nopen({str(runs.with_name('ran'))!r}, 'w')\n")
    status, said, _ = verified(runs, capsys)
    assert status == 1
    assert "the file has changed since" in said
    assert not runs.with_name("ran").exists()


UNUSABLE = {
    "file": (lambda e: e.update(path="../kernels/gone.py"), [], "gone.py is not there"),
    "weights": (lambda e: e["options"].update(model="a/b"), [], "give --model a/b"),
    "no weights": (lambda e: None, ["--model", "a/b"], "leave --model out"),
    "device": (lambda e: e["options"].update(device="tpu"), [], "--device tpu"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_what_cannot_be_run_here_is_one_line(what, runs, capsys):
    change, options, words = UNUSABLE[what]
    status, said, error = verified(changed(runs, change), capsys, *options)
    assert (status, said) == (2, "")
    assert words in error
    assert error.count("\n") == 1
    assert "gelu  mine.py  " in error


def test_nothing_is_run_if_a_file_has_no_records(runs, capsys, monkeypatch):
    monkeypatch.setattr(run, "chosen_cases", None)
    (runs.parent / "other.jsonl").write_text("{}\n")
    status, said, error = verified(runs, capsys, str(runs.parent / "other.jsonl"))
    assert (status, said) == (2, "")
    assert "other.jsonl, line 1 is not a record" in error
