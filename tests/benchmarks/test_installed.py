"""The harness works from site-packages and from a checkout."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environments import copy_of_the_checkout, environment, python_without

KERNELS = Path(__file__).parent / "kernels"
PEERS = ("transformers", "openai_whisper", "faster_whisper", "ctranslate2", "librosa", "asrfront")
PEERS += ("hf_processors_rs", "onnx", "onnxruntime")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    return python_without(tmp_path_factory.mktemp("python"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory, checkout):
    """Run a command with the project on PYTHONPATH and no other library installed."""
    python = python_without(tmp_path_factory.mktemp("bare"), *PEERS)
    folder = tmp_path_factory.mktemp("empty")

    def run(*arguments):
        return subprocess.run(
            [python, "-m", "melfront.benchmarks", *arguments],
            cwd=folder,
            env=environment(checkout),
            text=True,
            capture_output=True,
        )

    return run


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_of_the_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(params=["site-packages", "PYTHONPATH", "the current folder"])
def started(request, python, checkout, tmp_path):
    """Run a command with the project found in one of these places."""
    path, cwd = "", tmp_path
    if request.param == "site-packages":
        python = request.getfixturevalue("installed")
    elif request.param == "PYTHONPATH":
        path = checkout
    else:
        cwd = checkout

    def run(*arguments):
        return subprocess.run(
            [python, "-m", "melfront", "benchmarks", *map(str, arguments)],
            cwd=cwd,
            env=environment(path),
            text=True,
            capture_output=True,
        )

    return run


QUICK = ["--depth", "1", "--seconds", "0.1", "--threads", "1"]


# .ci/run covers this too, with the README's own command.
@pytest.mark.slow
@pytest.mark.parametrize("started", ["site-packages"], indirect=True)
def test_kernel_is_proved(started):
    done = started("kernel", "layer_norm", KERNELS / "reference.py", *QUICK)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nPASS: 8 cases" in done.stdout
    assert "in its place" in done.stdout


@pytest.mark.parametrize(
    "started",
    [
        "site-packages",
        *(pytest.param(p, marks=pytest.mark.slow) for p in ("PYTHONPATH", "the current folder")),
    ],
    indirect=True,
)
def test_import_guard_holds(started):
    files = [KERNELS / f"{name}.py" for name in ("calls_the_reference", "removes_the_guard")]
    done = started("kernel", "layer_norm", *files, *QUICK)
    assert done.stderr == ""
    assert done.returncode == 1
    reference, guard = done.stdout.split("layer_norm  ")[1:]
    assert "\nINVALID: REFERENCE - imports melfront" in reference
    assert "\nINVALID: TAMPERED - replaces sys.meta_path" in guard


# .ci/run covers site-packages, with the README's own command.
@pytest.mark.slow
@pytest.mark.parametrize("started", ["PYTHONPATH"], indirect=True)
def test_speed_is_measured(started):
    work = ["--work", "8.1 s padded to 30 s", "--threads", "1", "--seconds", "0.1"]
    done = started("frontend", *work)
    assert done.returncode == 0, done.stderr
    assert "| melfront, torch " in done.stdout


def test_environment_does_not_contain_melfront(python):
    """Otherwise the tests above could not fail."""
    done = subprocess.run([python, "-Ic", "import melfront"], text=True, capture_output=True)
    assert "No module named 'melfront'" in done.stderr
    assert sys.executable != str(python)


EXTRA = "pip install 'melfront[bench]'"


@pytest.mark.parametrize("command", ["frontend", "encoder", "load"])
def test_help_names_the_extra(bare, command):
    done = bare(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert EXTRA in done.stdout
    assert "transformers" in done.stdout


def test_load_needs_transformers(bare):
    done = bare("load", "--work", "tiny")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"melfront benchmarks: load needs transformers: {EXTRA}\n"


@pytest.mark.parametrize(
    ("command", "work"),
    [
        ("frontend", "8.1 s padded to 30 s"),
        pytest.param("encoder", "tiny", marks=pytest.mark.slow),
    ],
)
def test_melfront_is_timed_alone_and_the_extra_is_named(bare, command, work):
    done = bare(command, "--work", work, "--threads", "1", "--seconds", "0.1")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert "not installed, and so not timed: transformers, openai-whisper, " in done.stderr
    assert EXTRA in done.stderr
    assert re.search(r"^\| (python -m )?melfront", done.stdout, re.MULTILINE)
