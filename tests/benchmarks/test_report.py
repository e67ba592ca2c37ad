"""The printed report of made-up outcomes: no meaningless numbers, no repetition."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from melfront.benchmarks.kernel import report, run
from melfront.benchmarks.kernel.outcome import Options, Outcome
from melfront.benchmarks.kernel.proof.diagnose import Suspect
from melfront.benchmarks.kernel.proof.verdict import Finding
from melfront.benchmarks.kernel.slots import find
from melfront.benchmarks.kernel.slots.inputs import Case
from melfront.benchmarks.kernel.timing.times import TWIN
from melfront.benchmarks.kernel.timing.whole import Whole
from melfront.benchmarks.speed.results import AGAIN, Row, Table, show
from tests.benchmarks.test_timing import made_up


def outcome(*races, **changes):
    case = Case("speech", (torch.zeros(2, 3),))
    findings = [Finding(case, "PASS", noise=0.5) for _ in races] or [
        Finding(case, "WRONG", noise=99.0, code="WRONG", text="99 x noise")
    ]
    made = Outcome(find("layer_norm"), "kernel.py", Options(seconds=2), findings=findings)
    return replace(made, races=dict(enumerate(races)), **changes)


def below_nothing():
    """A race in which most calls took no longer than an empty one."""
    race = made_up()
    race.times[""][:30] = 0
    return race


def far_apart():
    """A race in which the machine stalled in half of the second copy's calls."""
    race = made_up()
    race.times[TWIN][::2] *= 1e4
    return race


def times(printed: str) -> list[str]:
    """The lines of the printed table of times."""
    return printed.partition("\ntime ")[2].partition("\nsecond copy")[0].splitlines()[1:]


UNCLEAR = {"no longer than an empty call": below_nothing, "differ by more than 2 x": far_apart}


@pytest.mark.parametrize("reason", UNCLEAR)
def test_no_numbers_on_a_busy_machine(reason):
    race = UNCLEAR[reason]()
    printed = report.text(outcome(race))
    assert "too busy to say" in times(printed)[0]
    assert reason in printed
    assert "--seconds 8" in printed
    assert "%" not in printed
    assert " us" not in printed
    assert " ms" not in printed
    assert "no difference" not in printed
    assert reason in run.unclear({0: race})


def test_clear_case_keeps_its_numbers_next_to_an_unclear_one():
    text = report.text(outcome(made_up(), far_apart()))
    printed = text.splitlines()
    clear, unclear = times(text)
    assert "s [" in clear
    assert "x =" in clear
    assert "too busy to say" in unclear
    band = next(line for line in printed if line.startswith("second copy"))
    assert int(band.partition("within ")[2].partition("%")[0]) < 100
    assert run.unclear({0: made_up()}) == ""


def test_wide_but_meaningful_bands_are_printed():
    race = made_up(twin=1.5e-3)
    assert not race.unclear()
    assert "ratios within 8" in report.text(outcome(race))


def test_nan_times_are_unclear():
    race = made_up()
    race.times[TWIN][:] = np.nan
    assert race.unclear()


@pytest.mark.parametrize("steady", [True, False])
def test_no_ratio_for_the_whole_on_a_busy_machine(steady):
    rng = np.random.default_rng(0)
    times = [0.1 * np.exp(rng.normal(0, 0.02 if steady else 3, 5)) for _ in range(2)]
    whole = Whole("encoder", ["positions"], [1.0], times)
    line = report.text(outcome(made_up(), whole=whole)).splitlines()[-2]
    assert line.startswith("  end to end ")
    assert ("too busy to say" in line) != steady
    ratio = re.search(r": (.+)x, between (.+) and (.+)$", line)
    assert bool(ratio) == steady
    if ratio:
        middle, low, high = map(float, ratio.groups())
        assert 0.9 < low < middle < high < 1.1


def test_no_ratios_if_two_copies_differ_too_much():
    times = {"ours": 1.0, "theirs": 1.0, "theirs" + AGAIN: 2.5}
    table = Table("a title", [Row(name, [t] * 5) for name, t in times.items()], ["ours"])
    lines = show(table)
    assert not any("1.00" in line or "0.40" in line for line in lines)
    assert "too busy to compare" in lines[-1]


@pytest.mark.parametrize(
    ("verdict", "code"), [("PASS", ""), ("WRONG", "WRONG"), ("INVALID", "THREAD")]
)
def test_verdict_has_the_number_of_the_run(verdict, code):
    """A kernel that prints a verdict of its own can read the seed of a command line, no more."""
    options = Options(seed=31)
    first, second = (outcome(verdict=verdict, code=code, options=options) for _ in range(2))
    assert first.run != second.run
    for made in (first, second):
        lines = report.text(made).splitlines()
        assert lines[0].endswith(f", seed 31, run {made.run}")
        (line,) = [line for line in lines if line.startswith(f"{verdict}: ")]
        assert line.endswith(f"seed 31, run {made.run})")


def test_a_kernels_words_stay_in_their_line():
    """What it raises is printed by us, and may hold what clears a terminal, or lines of its own."""
    words = "ValueError: \x1b[2J\nPASS: 8 cases\rPASS"
    made = outcome(verdict="INVALID", code="RAISED", text=words, arrays="numpy\nPASS: 8 cases")
    made.findings[0].code, made.findings[0].text = "RAISED", words
    printed = report.text(made)
    assert printed.count("\\x1b[2J PASS: 8 cases PASS") == 2
    assert not set("\x1b\r") & set(printed)
    assert not [line for line in printed.splitlines() if line.startswith("PASS")]


@pytest.mark.parametrize("mistake", [None, "tanh GELU"])
@pytest.mark.parametrize("code", ["WRONG", "INVALID", "PRECISION"])
def test_no_word_is_repeated(code, mistake):
    known = Suspect(mistake, "the tanh formula", "", None) if mistake else None
    verdict = code if code != "PRECISION" else "WRONG"
    made = outcome(verdict=verdict, code=code, text="speech: 99 x noise", mistake=known)
    printed = report.text(made)
    words = " ".join(printed.split()).replace(":", " ").replace("-", " ").split()
    assert not [a for a, b in pairwise(words) if a == b], printed
    expected = "WRONG: PRECISION - speech" if code == "PRECISION" else f"{code}: speech"
    assert f"\n{expected}: 99 x noise" in printed
    assert bool(mistake) == ("looks like: tanh GELU" in printed)
