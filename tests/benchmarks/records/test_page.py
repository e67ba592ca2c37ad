"""Records of made-up outcomes: read, refused, and written as a page."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from melfront.benchmarks.__main__ import main
from melfront.benchmarks.kernel.outcome import Options
from melfront.benchmarks.kernel.record import EXAMPLES, VERSION, place, read, record
from melfront.benchmarks.kernel.run import sha256
from melfront.command import UsageError
from tests.benchmarks.test_report import outcome
from tests.benchmarks.test_timing import made_up

ROOT = Path(__file__).parents[3]


def made(folder, path=EXAMPLES / "layer_norm_c.py", **changes):
    """A record of a kernel that is twice as fast as the reference, and 0.5 x as noisy."""
    run = outcome(made_up(candidate=0.5e-3), made_up(seed=1))
    options = Options(threads=2, seed=7, whole=False)
    run = replace(run, path=str(path), options=options, sha256=sha256(path), run="0123abcd")
    return json.loads(json.dumps(record(run, folder))) | changes


def old(entry):
    """The record as version 1 had it."""
    lacks = {"run", "about", "path", "relative_to", "sha256"}
    return {k: v for k, v in entry.items() if k not in lacks} | {"version": 1}


def written(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return str(path)


def cells(page, file):
    """The cells of a kernel's line; a bar within a cell has a backslash before it."""
    (line,) = [line for line in page.splitlines() if line.startswith("| `") and file in line]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_page_has_what_a_record_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    first = made(tmp_path)
    wrong = {"slot": "gelu", "file": "other.py", "verdict": "WRONG", "code": "PRECISION"}
    wrong |= {"mistake": "float16 inside", "cases": [], "versions": {"python": "3.99"}}
    runs = written(tmp_path / "runs.jsonl", first, first | wrong | {"path": "other.py"})
    page = tmp_path / "page.md"
    assert main(["kernel", "--show", runs, "--table", str(page)]) == 0
    text = page.read_text()
    slot, kernel, verdict, noise, ratios, roof, on, command = cells(text, "layer_norm_c.py")
    assert (slot, verdict, noise) == ("`layer_norm`", "PASS", "0.5")
    assert kernel.startswith("`layer_norm_c.py`: LayerNorm in C: compiled by")
    assert re.fullmatch(r"(1\.9|2\.0)\dx, (0\.9|1\.0)\dx =", ratios)
    assert re.fullmatch(r"(19|2[01])%, (9|1[01])%", roof)  # 0.1 ms at 10 GB/s
    words = "layer_norm benchmarks/examples/layer_norm_c.py --threads 2 --seed 7 --no-whole"
    assert command == f"`melfront benchmarks kernel {words}`"
    _, _, verdict, *numbers, other, _ = cells(text, "other.py")
    assert (verdict, numbers) == ("WRONG: PRECISION, float16 inside", ["-", "-", "-"])
    assert [on, other] == ["2", "1"]
    assert re.search(r"(?m)^1\. .*python 3\.99", text)
    assert f"--show {runs} --table {page}" in text


def test_records_of_strangers_add_nothing_but_their_line(tmp_path):
    entry = made(tmp_path) | {"about": "a | b <b> [c](d) `e`", "file": "`|\x1b[2J\n# PASS.py"}
    entry["machine"] = {"cpu": "<script>\n\n# head", "system": ["x"]}
    page = tmp_path / "page.md"
    assert main(["kernel", "--show", written(tmp_path / "r", entry), "--table", str(page)]) == 0
    text = page.read_text()
    assert len(cells(text, "PASS.py")) == 8
    assert r"a \| b \<b\> \[c\](d) \`e\`" in text
    assert "\x1b" not in text
    assert not re.search(r"(?m)^# (PASS|head)|(?<!\\)<script", text)


def test_old_records_are_shown(tmp_path, capsys):
    runs, page = written(tmp_path / "runs.jsonl", old(made(tmp_path))), tmp_path / "page.md"
    assert main(["kernel", "--show", runs, "--table", str(page)]) == 0
    assert "layer_norm_c.py" in capsys.readouterr().out
    assert cells(page.read_text(), "layer_norm_c.py")[-1] == "-"
    assert main(["kernel", "--verify", runs]) == 2
    error = capsys.readouterr().err
    assert "an old record" in error
    assert error.count("\n") == 1


REFUSED = {
    "a later version": {"version": VERSION + 1},
    "no path": {"path": None},
    "an absolute path": {"path": "/etc/kernel.py"},
    "no Python file": {"path": "kernel.sh"},
    "a path of two lines": {"path": "a\nb.py"},
    "another place": {"relative_to": "home"},
    "no hash": {"sha256": ""},
    "an unknown slot": {"slot": "layernorm"},
    "control characters": {"about": "\x1b[2J"},
    "no machine": {"machine": None},
    "an infinite noise": {"cases": [{"noise": 10**400, "label": "speech"}]},
}
OPTIONS = {
    "size": "huge",
    "dtype": "float8",
    "threads": 0,
    "seed": "7",
    "seconds": 1e9,
    "limit": float("nan"),
    "depth": 1000,
    "model": 7,
    "whole": "no",
}


@pytest.mark.parametrize("what", [*REFUSED, *OPTIONS])
def test_what_is_no_record_is_refused(what, tmp_path):
    entry = made(tmp_path)
    assert read(written(tmp_path / "runs.jsonl", entry))
    if what in OPTIONS:
        entry["options"][what] = OPTIONS[what]
    else:
        entry |= REFUSED[what]
    with pytest.raises(UsageError, match="line 2 is not a record"):
        read(written(tmp_path / "runs.jsonl", made(tmp_path), entry))


@pytest.mark.parametrize("ratio", [0, -1, float("nan"), "2", None])
def test_a_ratio_is_a_number_above_0(ratio, tmp_path):
    entry = made(tmp_path)
    entry["cases"][0]["ratios"]["reference"]["ratio"] = ratio
    with pytest.raises(UsageError, match="line 1 is not a record"):
        read(written(tmp_path / "runs.jsonl", old(entry)))


def test_a_file_is_found_from_its_record_or_among_the_examples(tmp_path):
    kernel, runs = tmp_path / "kernels" / "mine.py", tmp_path / "runs"
    assert place(kernel, runs) == {"path": "../kernels/mine.py", "relative_to": "record"}
    triton = EXAMPLES / "gpu" / "mlp_triton.py"
    assert place(triton, runs) == {"path": "gpu/mlp_triton.py", "relative_to": "examples"}


@pytest.mark.parametrize("page", sorted(ROOT.glob("benchmarks/KERNELS.md")))
def test_the_page_is_up_to_date(page, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (command,) = re.findall(r"(?m)^    melfront benchmarks (kernel --show .*)$", page.read_text())
    *words, name = command.split()
    assert main([*words, str(tmp_path / "page.md")]) == 0
    again = (tmp_path / "page.md").read_text().replace(str(tmp_path / "page.md"), name)
    assert again == page.read_text()
