"""`print`, and lists of printed values: what people have who have only printf."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import melfront
from melfront import parity
from melfront.parity import mistakes
from melfront.parity.files.texts import Decimal, from_text
from melfront.parity.pipeline import load_model
from melfront.parity.signals import SIGNALS
from tests.parity.commands import FEATURES, SPEECH, assert_one_line
from tests.parity.ports import FRONT_ENDS, front_end_dump

TOY = ["--model", "formula:toy"]


def listed(x, form="%g", n=10, name="features"):
    """What a port in C prints, with a sum in float32, value by value."""
    flat = x.astype(np.float32).reshape(-1)
    total = np.cumsum(flat, dtype=np.float32)[-1]
    show = lambda values: " ".join(form % float(v) for v in values)  # noqa: E731
    return (
        f"{name} {x.shape}:\nfirst {n} values: {show(flat[:n])}\nlast: [{show(flat[-n:])}]\n"
        f"sum = {form % float(total)}, mean = {form % float(total / flat.size)}\n"
    )


def verdict(tmp_path, text, **options):
    (tmp_path / "mine.txt").write_text(text)
    options = {"audio": SPEECH, "pad_to": None, **options}
    return parity.compare(tmp_path / "mine.txt", **options)


# --- print ----------------------------------------------------------------------------------------


def test_what_print_prints_is_right(run, tmp_path):
    status, out, err = run("print", *TOY)
    assert (status, err) == (0, "")
    names = [line.split()[0] for line in out.splitlines() if not line.startswith((" ", "#"))]
    every = parity.trace(melfront.load_audio(melfront.audio.SAMPLE), load_model("formula:toy"))
    assert names == list(every)
    (tmp_path / "mine.txt").write_text(out)
    assert run("compare", tmp_path / "mine.txt", *TOY)[0] == 0


def test_print_in_numbers(run):
    status, out, _ = run("print", "features", "--n-mels", "80")
    truth = parity.trace(n_mels=80)["features"]
    lines = dict(line.split(None, 1) for line in out.splitlines())
    assert status == 0
    assert lines["features"] == "(80, 3000)"
    flat = truth.reshape(-1)
    for name, values in (("first", flat[:10]), ("last", flat[-10:]), ("mean", [flat.mean()])):
        assert lines[name] == " ".join(f"{x:.6g}" for x in values)


@pytest.mark.parametrize(
    "words",
    [["CLIP", "log_mel"], ["log_mel", "CLIP"], ["CLIP", "--stages", "features"], ["features"]],
)
def test_stages_and_clips_in_any_order(run, clip, words):
    words = [str(clip) if word == "CLIP" else word for word in words]
    status, out, _ = run("print", *words, "--n-mels", "80")
    assert status == 0
    name = "clip.wav" if str(clip) in words else "sample"
    assert out.startswith("# clip ")
    assert name in out.splitlines()[0]
    assert sum(not line.startswith((" ", "#")) for line in out.splitlines()) == 1


def test_print_of_what_is_not_there(run, clip):
    assert_one_line(run("print", "featurs"), "featurs", "features")
    assert_one_line(run("print", "no.wav"), "no.wav")
    assert_one_line(run("print", str(clip), "sample"), "one clip")
    assert_one_line(run("print", "ln_post"), "ln_post")


# --- right ports ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["%.2f", "%.4f", "%g", "%.8f", "%e"])
@pytest.mark.parametrize("order", ["", "transposed"])
def test_a_right_port_passes_at_its_digits(tmp_path, form, order):
    for port in FRONT_ENDS.values():
        x = port(SPEECH, 6400, 80)
        report = verdict(tmp_path, listed(x.T if order else x, form), pad_to=0.4)
        assert report.ok, report
        assert (order in report.stages[0].notes) == bool(order)


def test_a_long_tail_of_equal_values(tmp_path):
    """Its sum in float32 is a percent off."""
    x = melfront.log_mel(SPEECH, n_mels=80)
    assert verdict(tmp_path, listed(x), pad_to=30).ok
    assert verdict(tmp_path, f"features\nsum {x.sum(dtype=np.float64):g}", n_mels=80, pad_to=30).ok


def test_json(tmp_path):
    flat = [float(f"{x:.4f}") for x in FEATURES.reshape(-1)]
    facts = {"first": flat[:5], "last": flat[-5:], "sum": sum(flat), "mean": sum(flat) / len(flat)}
    for held in ({"log_mel": {"shape": [80, 37], **facts}}, {"shape": [1, 80, 37], **facts}):
        (tmp_path / "features.json").write_text(json.dumps(held))
        report = parity.compare(tmp_path / "features.json", audio=SPEECH, pad_to=None)
        assert report.ok, report


def test_the_number_of_bins_by_the_sum_and_the_mean(tmp_path):
    for n_mels in (80, 128):
        x = melfront.log_mel(SPEECH, n_mels=n_mels)
        report = verdict(tmp_path, listed(x).replace(str(x.shape), ""), pad_to=30)
        assert report.ok, report
        assert f", {n_mels} bins" in report.about[0]


# --- wrong ports ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["%.4f", "%g"])
@pytest.mark.parametrize("name", ["symmetric window", "HTK mel scale", "offset left out"])
def test_a_wrong_port_is_wrong(tmp_path, form, name):
    wrong = front_end_dump(SPEECH, mistakes.find(name).convention())["features"]
    report = verdict(tmp_path, listed(wrong, form))
    assert report.first_wrong.verdict == "WRONG"
    assert "only printed values of it were given" in str(report)


@pytest.mark.parametrize(
    ("number", "other"),
    [
        (r"(?<=values: )\S+", "0.9"),
        (r"\S+(?=\])", "-0.3"),
        (r"(?<=values: )\S+", "inf"),
        (r"(?<=sum = )", "-"),
        (r"(?<=mean = )", "-"),
        (r"(?<=mean = )\S+", "nan"),
    ],
)
def test_one_wrong_number_is_wrong(tmp_path, number, other):
    text = listed(FEATURES, "%.4f")
    assert verdict(tmp_path, text).ok
    changed, n = re.subn(number, other, text, count=1)
    assert n == 1
    assert verdict(tmp_path, changed).first_wrong.verdict == "WRONG"


@pytest.mark.parametrize("zeros", ["0 0 0 0", "0.0000 0.0000 0.0000", "0 -0 0 1e-9"])
def test_zeros_are_not_right_to_within_a_whole_digit(tmp_path, zeros):
    assert verdict(tmp_path, f"features\nfirst {zeros}", n_mels=80).first_wrong.verdict == "WRONG"


def test_of_another_shape(tmp_path):
    report = verdict(tmp_path, listed(FEATURES).replace("(80, 37)", "(80, 38)"))
    assert report.first_wrong.verdict == "SHAPE"
    assert "(80, 38), expected (80, 37)" in str(report)


# --- how lists are read ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "decimals", "digits"),
    [("0.5800", 4, 4), ("-1.50e-3", 5, 3), ("1.2e2", -1, 2), ("120", 0, 3), (".5", 1, 1)],
)
def test_digits(text, decimals, digits):
    assert Decimal.of(text) == (float(text), decimals, digits)


@pytest.mark.parametrize(
    "text",
    [
        "first: 1 2 last: 3 4 sum 5 mean 6",
        "first 2 values = [1, 2]\nlast 2 values = [3, 4]\nsum=5\nmean=6",
        "FIRST10 1,2 ... 3,4\nSum: 5; average: 6",
        "1 2 ... 3 4\n  total 5\n  avg 6",
    ],
)
def test_forms_of_a_list(text, tmp_path):
    expected = ((1, 2), (3, 4), 5, 6)
    for head, name in (("", ""), ("conv1:\n", "conv1"), ("stage: conv1\n", "conv1"),
                       ("conv1 [12, 3]: ", "conv1"), ("/a/conv1 12x3\n", "/a/conv1")):  # fmt: skip
        found = from_text(head + text, tmp_path)[name]
        values = [tuple(n.value for n in numbers) for numbers in (found.first, found.last)]
        assert (*values, *(found.numbers[k].value for k in ("sum", "mean"))) == expected
        assert found.shape == ((12, 3) if "12" in head else None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("features\n sum 1 2", "2 numbers for the sum"),
        ("features\nmean", "expected its first and last values"),
        ("features\nsum 1\nfeatures\nsum 2", "stands there twice"),
        ("featurs\nsum 1", "featurs"),
        ("features\nfirst " + "1 " * 5000, "SHAPE"),
    ],
)
def test_lists_that_cannot_be_read(compare, tmp_path, text, words):
    (tmp_path / "mine.txt").write_text(text)
    status, out, err = compare(tmp_path / "mine.txt", "--n-mels", "80")
    assert status == (1 if words == "SHAPE" else 2)
    assert words in out + err


def test_what_a_list_is_not_enough_for(compare, tmp_path, right):
    (tmp_path / "mine.txt").write_text(listed(FEATURES))
    assert_one_line(compare(tmp_path / "mine.txt", "--forced"), "--forced", "printed")
    assert_one_line(compare(right, tmp_path / "mine.txt"), "REFERENCE", "printed")
    assert compare(tmp_path / "mine.txt", right)[0] == 0


def test_every_stage_of_the_encoder(tmp_path):
    model, clip = load_model("formula:toy"), SIGNALS["toy"].make()
    trace = parity.trace(clip, model)
    del trace["spectrum"]
    text = "".join(listed(x, name=stage, n=5) for stage, x in trace.items())
    assert verdict(tmp_path, text, audio=clip, model=model, pad_to=30).ok
    trace["block.0.attn.q"] = trace["block.0.attn.q"] * 1.001
    text = "".join(listed(x, name=stage, n=5) for stage, x in trace.items())
    report = verdict(tmp_path, text, audio=clip, model=model, pad_to=30)
    assert [s.name for s in report.stages if s.verdict != "PASS"] == ["block.0.attn.q"]
