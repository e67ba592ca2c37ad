"""Every name or file that one command prints or writes is accepted by the others as input."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import melfront.__main__
import melfront.benchmarks.__main__
import melfront.encoder.__main__
import melfront.parity.__main__
import melfront.reference_data.make_picture
from melfront import CONVENTIONS, benchmarks, encoder, parity, reference_data
from melfront.benchmarks.kernel.proof.cases import model as model_of_kernels
from melfront.benchmarks.speed.cli import WORKS
from melfront.encoder import SIZES
from melfront.encoder.built_in import TOYS
from melfront.parity.signals import SIGNALS
from tests.signals import sample

LONG = 480_000 + 100_003  # samples: two windows of 30 s


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys):
    """Run a command, assert that it exits with 0, and return its stdout."""

    def run(module, *words: str) -> str:
        try:
            status = module.__main__.main(list(words))
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        assert not status, (words, out, err)
        return out

    return run


def write_clip(name: str, samples: int) -> str:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(name, np.resize(sample(), samples), 16_000, subtype="FLOAT")
    return name


# Models


@pytest.mark.parametrize("command", ["encoder", "dump"])
def test_model_name_printed_by_encoder_is_accepted(run, command):
    (name,) = re.findall(r"^model (\S+),", run(encoder), flags=re.MULTILINE)
    if command == "encoder":
        assert run(encoder, "--model", name) == run(encoder)
    else:
        words = ("--model", name, "--stages", "block.0.attn_ln", "-o", "truth.safetensors")
        assert f"model {name}" in run(parity, "dump", *words)


@pytest.mark.parametrize("name", [f"formula:{name}" for name in ("tiny", "tiny/16", *TOYS)])
def test_built_in_encoders(run, name):
    """`encoder` writes hidden states; `compare` reads the model's name from the file."""
    assert f"model {name}," in run(encoder, "--model", name, "-o", "mine.safetensors")
    assert f"model {name}\n" in run(parity, "compare", "mine.safetensors")
    assert model_of_kernels("tiny", name, torch.float32, None).config.n_mels


def test_make_picture_accepts_a_built_in_encoder():
    assert reference_data.make_picture.main(["--model", "formula:tiny/128", "-o", "a.png"]) == 0
    assert Path("a.png").stat().st_size


def test_unknown_model_error_lists_all_sizes(capsys):
    for command in (encoder, parity):
        words = ["dump", "-o", "a.npz"] if command is parity else []
        assert command.__main__.main([*words, "--model", "formula:enormous"]) == 2
        error = capsys.readouterr().err
        for name in (*SIZES, *TOYS):
            assert re.search(rf"[ ,]{re.escape(name)},", error), (name, error)


# Clips


@pytest.mark.parametrize("clip", ["sample", "signal:speech", "signal:silence"])
def test_clip_name_printed_by_compare_is_accepted(run, clip):
    run(parity, "dump", clip, "--stages", "features", "-o", "truth.safetensors")
    out = run(parity, "compare", "truth.safetensors")
    (name,) = re.findall(r"^clip (\S+),", out)
    assert name == clip
    named = run(parity, "compare", "truth.safetensors", "--audio", name)
    assert named.splitlines()[:-1] == out.splitlines()[:-1]  # the last says how to repeat it


def test_unknown_signal_error_lists_all_signals(capsys):
    assert parity.__main__.main(["dump", "signal:nothing", "-o", "a.npz"]) == 2
    error = capsys.readouterr().err
    for name in SIGNALS:
        assert re.search(rf"\b{name}\b", error), name


# Seconds each, through the same code.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (i % 4 != 0))
        for i, name in enumerate(sorted(set(SIGNALS) - {"batch", "sample"}))  # sample: below
    ],
)
def test_compare_accepts_every_signal(run, name):
    run(melfront, f"signal:{name}", "-o", "mel.npz")
    assert run(parity, "compare", "mel.npz", "--audio", f"signal:{name}", "--pad-to", "30")


def test_sample_by_name_and_by_printed_path(run):
    out = run(melfront, "sample")
    (path,) = re.findall(r"^(\S+): 8\.10 s", out)
    assert run(melfront, path) == run(melfront) == out
    (path,) = re.findall(r"^(\S+): 129600 samples", run(encoder, "sample"), flags=re.MULTILINE)
    assert run(encoder, path) == run(encoder, "sample")
    assert np.array_equal(melfront.load_audio("sample"), sample())


def test_path_to_a_file_named_sample(run):
    write_clip("sample.wav", 5000)
    Path("sample.wav").rename("sample")
    assert ": 0.31 s" in run(melfront, "./sample")
    assert ": 8.10 s" in run(melfront, "sample")


# Files


@pytest.mark.parametrize(
    ("samples", "ending"),
    [
        (5003, "npy"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in product((5003, LONG), ("npy", "npz", "safetensors"))
            if case != (5003, "npy")
        ),
    ],
)
def test_written_features_can_be_compared(run, samples, ending):
    """`compare` reads clip, convention and windows from the file; a .npy cannot store them."""
    clip = write_clip("clip.wav", samples)
    for name in CONVENTIONS:
        out = run(melfront, clip, "--convention", name, "-o", f"mine.{ending}")
        (written,) = re.findall(r"written to (\S+)", out)
        options = ("--audio", clip, "--convention", name) if ending == "npy" else ()
        printed = run(parity, "compare", written, *options)
        assert printed.startswith(f"clip {clip}, "), printed
        assert f"convention {name}\n" in printed
        assert ("its 2 windows of 30 s" in printed) == (samples == LONG)


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_hidden_states_of_a_long_clip_can_be_compared(run, ending):
    clip = write_clip("clip.wav", 8000)  # three windows of the toy
    out = run(encoder, clip, "--model", "formula:toy", "-o", f"mine.{ending}")
    (written,) = re.findall(r"written to (\S+):", out)
    assert "its 3 windows of 0.22 s" in run(parity, "compare", written)


def test_windows_against_a_dump_of_the_first(run):
    clip = write_clip("clip.wav", LONG)
    run(melfront, clip, "-o", "mine.safetensors")
    run(parity, "dump", clip, "--stages", "features", "-o", "truth.safetensors")
    run(parity, "compare", "mine.safetensors", "truth.safetensors")
    run(parity, "compare", "truth.safetensors", "mine.safetensors")


@pytest.mark.parametrize("window", [0, 1])
def test_a_wrong_window_is_wrong(run, capsys, window):
    clip = write_clip("clip.wav", LONG)
    run(melfront, clip, "-o", "mine.npz")
    with np.load("mine.npz") as file:
        wrong = dict(file)
    wrong["log_mel"][window, 3, 7] += 1
    np.savez("mine.npz", **wrong)
    assert parity.__main__.main(["compare", "mine.npz"]) == 1
    place = "worst at window 1, mel 3, frame 7" if window else "worst at mel 3, frame 7"
    assert place in capsys.readouterr().out


def test_npy_without_a_stage_name_is_refused(capsys):
    np.save("mine.npy", np.zeros((1500, 384), np.float32))
    assert parity.__main__.main(["compare", "mine.npy"]) == 2
    assert "rename it" in capsys.readouterr().err


# Stages


def stages_of(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if re.search(r"\S +\(.*\)", line)]


def test_every_listed_stage_can_be_dumped(run):
    names = stages_of(run(parity, "stages"))
    assert len(names) == 29, names
    for name in names:
        words = ("--model", "formula:toy", "--stages", name, "-o", "a.npz")
        assert "written" in run(parity, "dump", *words)
        with np.load("a.npz") as file:
            kept = set(file) - {"__metadata__"}
        assert kept == {name.replace("I", str(i)) for i in range(2)} or kept == {name}


def test_every_stage_that_encoder_prints_or_writes_can_be_dumped(run):
    out = run(encoder, "--model", "formula:toy", "-o", "mine.safetensors")
    table = [name for name in stages_of(out) if name != "stage" and not name.endswith(":")]
    assert {"spectrum", "block.1.mlp_residual", "ln_post"} <= set(table)
    (written,) = re.findall(r"written to \S+: (.*)", out)
    tensors = set(written.split(", ")) - {"attention_mask"}  # not a stage
    for name in [*table, *sorted(tensors)]:
        run(parity, "dump", "--model", "formula:toy", "--stages", name, "-o", "a.npz")


# Benchmarks


def test_every_listed_slot_has_a_template(run):
    names = re.findall(r"^(\w+)\(", run(benchmarks, "kernel", "--list"), flags=re.MULTILINE)
    assert len(names) == 13, names
    for name in names:
        assert f"def {name}(" in run(benchmarks, "kernel", "--template", name)


def test_every_listed_work_is_accepted(capsys):
    from melfront.benchmarks.speed.cli import parse

    for command, works in WORKS.items():
        with pytest.raises(SystemExit):
            parse(command, ["--work", "nothing"])
        error = capsys.readouterr().err
        for work in works:
            assert work in error
            assert parse(command, ["--work", work]).work == [work]


@pytest.mark.parametrize("module", ["melfront", "encoder", "parity", "benchmarks"])
def test_help_shows_an_example(run, module):
    assert "example" in run(globals()[module], "--help").lower()


# Audio outside [-1, 1]


def test_clip_of_unit_variance_with_no_check_range(run, capsys):
    """Every command names --no-check-range in its error, accepts it, and records it in its file."""
    loud = sample() / sample().std() * 3
    assert abs(loud).max() > 10
    soundfile = pytest.importorskip("soundfile")
    soundfile.write("loud.wav", loud, 16_000, subtype="FLOAT")
    for module, *words in (
        (melfront, "loud.wav"),
        (encoder, "loud.wav"),
        (parity, "dump", "loud.wav", "-o", "a.npz"),
    ):
        assert module.__main__.main(words) == 2
        assert "--no-check-range" in capsys.readouterr().err
    switch = "--no-check-range"
    run(melfront, "loud.wav", "-o", "mel.npz", switch)
    run(encoder, "loud.wav", "-o", "hidden.safetensors", "--model", "formula:toy", switch)
    run(parity, "dump", "loud.wav", "-o", "truth.npz", "--stages", "features", switch)
    for file in ("mel.npz", "hidden.safetensors", "truth.npz"):
        assert "PASS" in run(parity, "compare", file)
    np.savez("bare.npz", features=melfront.log_mel(loud, check_range=False))
    assert "PASS" in run(parity, "compare", "bare.npz", "--audio", "loud.wav", switch)
