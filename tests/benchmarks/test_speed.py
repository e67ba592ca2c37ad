"""Timing against other libraries: the order of calls, the test for a difference, the files."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from melfront.benchmarks import race as race_module
from melfront.benchmarks.__main__ import main
from melfront.benchmarks.machine import processors
from melfront.benchmarks.race import race
from melfront.benchmarks.speed import cli
from melfront.benchmarks.speed.own_process import in_process
from melfront.benchmarks.speed.results import AGAIN, Row, Table, errors, from_json, show
from tests.conftest import CHECKOUT
from tests.melfront.test_libraries import FROM_TRUTH


def table(**times) -> Table:
    rows = [Row(name.replace("_again", AGAIN), spent) for name, spent in times.items()]
    return Table("a title", rows, ["ours"], ["a line"])


def around(seconds: float, spread: float = 0.001, seed: int = 0) -> list[float]:
    return list(seconds * (1 + spread * np.random.default_rng(seed).standard_normal(21)))


def test_contestants_take_turns(monkeypatch):
    calls = []
    runs = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    monkeypatch.setattr(race_module, "warm", lambda run: run())
    times = race(runs, seconds=0.2)  # enough for five rounds with pauses
    assert {len(spent) for spent in times.values()} == {5}
    turns = calls[3::2]  # after one call of each, an untimed call precedes every timed one
    assert calls[4::2] == turns
    for i in range(0, 15, 3):
        assert sorted(turns[i : i + 3]) == ["a", "b", "c"]


def test_each_contestant_has_at_least_one_turn():
    times = race(dict.fromkeys("abc", lambda: None), seconds=0.01)
    assert [len(spent) for spent in times.values()] == [1, 1, 1]


class Clock:
    """A stand-in for `time`, so that other processes do not affect the measurement."""

    def __init__(self):
        self.now, self.working_until = 0.0, 0.0

    def perf_counter(self):
        self.now += 1e-5  # the time to read the clock
        return self.now

    def process_time(self):
        return min(self.now, self.working_until)

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(race_module, "time", made)
    return made


def test_short_calls_are_warmed_up_many_times_and_long_ones_once(clock):
    calls = []
    race_module.warm(lambda: calls.append("short") or clock.sleep(1e-4))
    assert len(calls) > 50
    race_module.warm(lambda: calls.append("long") or clock.sleep(0.02))
    assert calls.count("long") == 1


def test_settle_waits_for_threads_of_the_previous_contestant(clock):
    clock.working_until = 0.15
    race_module.settle()
    assert 0.15 <= clock.now < 0.15 + 2 * race_module.PAUSE
    clock.working_until = 1000.0
    race_module.settle()
    assert clock.now < 2, "waits indefinitely"


def test_only_the_call_is_timed(clock):
    times = race({"slow": lambda: clock.sleep(0.02), "fast": lambda: None}, seconds=0.01)
    # The clock is read before and after each call.
    assert times["slow"] == pytest.approx([0.02] * len(times["slow"]), abs=2e-5)
    assert times["fast"] == pytest.approx([0] * len(times["fast"]), abs=2e-5)


def test_ratio_is_ours_over_theirs():
    shown = table(ours=around(1.0), theirs=around(2.0, seed=1), theirs_again=around(2.0, seed=2))
    assert shown.ratio("ours", "theirs") == "0.50"


def test_difference_between_two_copies_is_not_significant():
    times = {"ours": around(1.0), "theirs": around(1.15, seed=1)}
    assert table(**times, theirs_again=around(1.15, seed=2)).ratio("ours", "theirs") == "0.87"
    assert table(**times, theirs_again=around(1.40, seed=2)).ratio("ours", "theirs") == "0.87 ="


def test_noise_is_not_significant():
    one, other = around(1.0, 0.5), around(1.05, 0.5, seed=1)
    assert table(ours=one, theirs=other).ratio("ours", "theirs").endswith("=")


def test_ratio_interval_pairs_the_rounds():
    """A machine that is slow in some rounds slows both contestants, so their ratio stays."""
    rng = np.random.default_rng(0)
    machine, noise = rng.lognormal(0, 2, 41), rng.normal(1, 0.001, (2, 41))
    low, ratio, high = race_module.ratio_interval(machine * noise[0], 2 * machine * noise[1], 0.99)
    assert 0.49 < low < ratio < high < 0.51
    assert race_module.ratio_interval([1.0], [2.0], 0.99) == (0.5, 0.5, 0.5)


def test_ratio_interval_leaves_out_what_interrupts_a_call():
    calls = np.full(20, 1.0)
    interrupted = np.where(np.arange(20) < 3, 50.0, 1.0)
    assert race_module.ratio_interval(interrupted, calls, 0.99) == (1, 1, 1)


def test_ratio_interval_contains_the_ratio():
    """As often as it says, with tails that are heavier than a normal variable's."""
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(1000):
        a, b = np.exp(0.2 * rng.standard_t(4, (2, 30)))
        low, _, high = race_module.ratio_interval(1.1 * a, b, 0.8)
        missed += not low <= 1.1 <= high
    assert missed == pytest.approx(200, abs=4 * np.sqrt(1000 * 0.2 * 0.8))  # 4 deviations


def test_rounds_are_limited_by_time_and_number():
    assert len(list(race_module.rounds("ab", seconds=0, least=3))) == 3
    assert len(list(race_module.rounds("ab", seconds=100, least=3, most=5))) == 5
    orders = [*map(tuple, race_module.rounds("abc", seconds=0, least=20))]
    assert {*map(frozenset, orders)} == {frozenset("abc")}
    assert len({*orders}) > 1


def test_errors():
    assert errors(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == (np.sqrt(2), 2)
    with pytest.raises(ValueError, match=r"shape \(2,\), the truth \(3,\)"):
        errors(np.zeros(2), np.zeros(3))


def test_table_is_formatted():
    lines = show(table(ours=[0.0011] * 5, theirs=[0.0022] * 5))
    assert lines[0] == "**a title**"
    assert lines[-1] == "- a line"
    assert any(re.fullmatch(r"\| theirs +\| 2\.2 +\|.*0\.50.*", line) for line in lines)
    assert len({len(line) for line in lines if line.startswith("|")}) == 1


def test_tables_survive_json():
    before = [table(ours=[1.0, 2.0], theirs=[3.0, 4.0])]
    assert from_json(json.loads(json.dumps(before, default=asdict))) == before


def test_section_is_replaced_and_others_stay(tmp_path):
    file = tmp_path / "RESULTS.md"
    cli.put(file, "frontend", ["$ first"], [table(ours=[1.0])])
    cli.put(file, "encoder", ["$ second"], [table(ours=[1.0])])
    cli.put(file, "frontend", ["$ third \\1"], [table(ours=[1.0])])
    text = file.read_text()
    assert text.count("## melfront benchmarks frontend\n") == 1
    assert "$ first" not in text
    assert text.index("$ third \\1") < text.index("$ second")


def test_process_gets_the_requested_cores():
    """The number of cores and threads as torch and the system report them in the child."""
    got = in_process("tests.benchmarks.test_speed:cores_seen", {"name": "x"}, threads=1)
    assert got == {"name": "x", "torch": 1, "cores": 1, "omp": "1"}


def cores_seen(name: str) -> dict:
    import os

    cores = len(os.sched_getaffinity(0))
    omp = os.environ["OMP_NUM_THREADS"]
    return {"name": name, "torch": torch.get_num_threads(), "cores": cores, "omp": omp}


@pytest.mark.parametrize("command", ["frontend", "encoder", "load"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "two"], "--threads two: expected numbers such as 1,2"),
        (["--threads", "0"], f"--threads: expected 1 to {processors()}"),
        (["--threads", "1,999"], "as many as there are cores"),
        (["--seconds", "0"], "--seconds 0.0: expected a positive number"),
        (["--seconds", "nan"], "--seconds nan: expected a positive number"),
        (["--seconds", "inf"], "--seconds inf: expected a positive number"),
        (["--work", "nothing"], "invalid choice"),
        (["--plot", "no/such/folder.png"], "no such folder to write folder.png into"),
        (["--json", "/proc/x.json"], "--json /proc/x.json: cannot write there"),
        (["--plot", "x.txt"], "--plot x.txt: expected the name of a file that ends in .png"),
        (["--markdown", "."], "--markdown .: expected the name of a file that ends in .md"),
        (["--json", ""], "expected the name of a file that ends in .json"),
    ],
)
def test_bad_usage_is_one_line(command, arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(cli, "in_process", None)  # nothing may be run
    try:
        status = main([command, *arguments])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["frontend", "encoder", "load"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"melfront benchmarks {command} --work" in capsys.readouterr().out


def run(command, work, tmp_path, capsys) -> list[Table]:
    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "png", "md")}
    options = ["--threads", "1", "--seconds", "0.1", "--json", str(files["json"])]
    options += ["--plot", str(files["png"]), "--markdown", str(files["md"])]
    assert main([command, "--work", work, *options]) == 0, capsys.readouterr().err
    tables = from_json(json.loads(files["json"].read_text())["tables"])
    assert files["md"].read_text().count("**") == 2 * len(tables)
    assert files["png"].stat().st_size > 0
    return tables


@pytest.mark.parametrize("option", ["json", "plot", "markdown"])
def test_full_disk_keeps_the_old_file(option, tmp_path, monkeypatch, capsys):
    file = tmp_path / f"out{cli.OUTPUTS[option]}"
    file.write_bytes(b"old")
    shown = asdict(table(ours=[1.0], theirs=[2.0]))
    monkeypatch.setattr(cli, "in_process", lambda *_: [shown])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert main(["load", "--threads", "1", "--work", "tiny", f"--{option}", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{file}: No space left on device" in error
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == b"old"


def wait_long(file: str) -> None:
    Path(file).write_text("waiting")
    try:
        time.sleep(100)
    finally:
        time.sleep(0.5)  # a slow cleanup
        Path(file).unlink()


def test_interrupted_process_finishes_its_cleanup(tmp_path):
    file = str(tmp_path / "made")
    code = "import sys; from melfront.benchmarks.speed.own_process import in_process as run; " + (
        f"run('tests.benchmarks.test_speed:wait_long', {{'file': {file!r}}}, 1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=CHECKOUT, stderr=subprocess.DEVNULL
    )
    while not Path(file).exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.wait()
    assert not Path(file).exists()


def test_frontend(tmp_path, capsys):
    """All installed peers compute the same features: 1e-4 is four times the float32 noise here."""
    (shown,) = run("frontend", "8.1 s padded to 30 s", tmp_path, capsys)
    names = [row.name for row in shown.rows]
    assert "melfront, torch" in names
    assert "transformers, torch" in names
    for row in shown.rows:
        assert row.error_max is None or row.error_max <= 1e-4, row
    by_name = {row.name: row for row in shown.rows}
    assert by_name["melfront, NumPy"].error_max <= FROM_TRUTH["numba"]
    assert by_name["melfront, torch"].error_max <= FROM_TRUTH["numba"]
    assert by_name["melfront, no numba"].error_max <= FROM_TRUTH["numpy"]


@pytest.mark.slow
@pytest.mark.parametrize("work", ["process", "one hour"])
def test_other_frontend_works(work, tmp_path, capsys):
    assert run("frontend", work, tmp_path, capsys)


def test_table_without_times_is_not_plotted(tmp_path, capsys):
    cli.plot([Table("memory", [], [], ["a line"])], tmp_path / "out.png")
    assert not list(tmp_path.iterdir())
    assert "there is nothing timed to draw" in capsys.readouterr().err


@pytest.mark.slow
def test_encoder(tmp_path, capsys):
    """In hidden states of about 1, float32 errs by 1e-6, bfloat16 by 1e-2, int8 by some 1e-2."""
    (shown,) = run("encoder", "tiny", tmp_path, capsys)
    for row in shown.rows:
        bound = 0.1 if row.name.endswith(("int8", "bfloat16")) else 3e-6
        assert row.error_rms is None or row.error_rms <= bound, row
    pytest.importorskip("ctranslate2")
    assert "ctranslate2, float32" in [row.name for row in shown.rows]
