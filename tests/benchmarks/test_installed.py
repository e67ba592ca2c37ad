"""The harness however the project is found: beside NumPy in site-packages, or as a checkout."""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy
import pytest

from melfront.audio import SAMPLE
from tests.conftest import CHECKOUT

KERNELS = Path(__file__).parent / "kernels"
OURS = ("benchmarks", "encoder", "melfront", "parity")


PEERS = ("transformers", "openai_whisper", "faster_whisper", "ctranslate2", "librosa", "asrfront")
PEERS += ("hf_processors_rs", "onnx", "onnxruntime")


def made(folder, *without):
    """A Python with all that is installed here but the project, in one site-packages."""
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for entry in Path(numpy.__file__).parents[1].iterdir():
        left_out = entry.name.startswith(("__editable__", "melfront", *OURS))
        left_out |= entry.name.partition("-")[0] in without or entry.suffix == ".pth"
        if not left_out and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    return made(tmp_path_factory.mktemp("python"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory, checkout):
    """Runs a command where no peer is installed, and neither is the project: it is on the path."""
    python = made(tmp_path_factory.mktemp("bare"), *PEERS)
    folder = tmp_path_factory.mktemp("empty")

    def run(*arguments):
        return subprocess.run(
            [python, "-m", "benchmarks", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"},
            text=True,
            capture_output=True,
        )

    return run


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkout")
    copy(folder)
    return folder


def copy(folder):
    for name in OURS:
        shutil.copytree(
            CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    (folder / "reference_data").mkdir()
    shutil.copy(SAMPLE, folder / "reference_data")


@pytest.fixture(params=["site-packages", "PYTHONPATH", "the current folder"])
def started(request, python, checkout, tmp_path):
    """Runs a command where the project is found in this way; gives status, output and complaint."""
    site = next(python.parents[1].glob("lib/python*/site-packages"))
    path, cwd, put = "", tmp_path, []
    if request.param == "site-packages":
        copy(site)
        put = [site / name for name in (*OURS, "reference_data")]
    elif request.param == "PYTHONPATH":
        path = str(checkout)
    else:
        cwd = checkout

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [python, "-m", "benchmarks", *map(str, arguments)],
            cwd=cwd,
            env=environment,
            text=True,
            capture_output=True,
        )

    yield run
    for entry in put:
        shutil.rmtree(entry)


def test_a_kernel_is_proved_and_the_fence_holds(started):
    names = ("reference", "calls_the_reference", "removes_the_guard")
    files = [KERNELS / f"{name}.py" for name in names]
    quick = ["--depth", "1", "--seconds", "0.1", "--threads", "1"]
    done = started("kernel", "layer_norm", *files, *quick)
    assert done.stderr == ""
    assert done.returncode == 1
    right, reference, fence = done.stdout.split("layer_norm  ")[1:]
    assert "\nPASS: 8 cases" in right
    assert "in its place" in right
    assert "\nINVALID: REFERENCE - imports encoder" in reference
    assert "\nINVALID: TAMPERED - replaces sys.meta_path" in fence


# From site-packages .ci/run does it, with the README's own command.
@pytest.mark.parametrize("started", ["PYTHONPATH"], indirect=True)
def test_a_speed_is_measured(started):
    work = ["--work", "8.1 s padded to 30 s", "--threads", "1", "--seconds", "0.1"]
    done = started("frontend", *work)
    assert done.returncode == 0, done.stderr
    assert "| melfront, torch " in done.stdout


def test_python_is_the_one_that_was_meant(python):
    """It has none of ours, or the tests above could not fail."""
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


def test_loading_needs_a_peer(bare):
    done = bare("load", "--work", "tiny")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"python -m benchmarks load needs transformers: {EXTRA}\n"


@pytest.mark.parametrize(
    ("command", "work"),
    [
        ("frontend", "8.1 s padded to 30 s"),
        pytest.param("encoder", "tiny", marks=pytest.mark.slow),
    ],
)
def test_ours_is_timed_alone_and_the_extra_is_named(bare, command, work):
    done = bare(command, "--work", work, "--threads", "1", "--seconds", "0.1")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert "not installed, and so not timed: transformers, openai-whisper, " in done.stderr
    assert EXTRA in done.stderr
    assert re.search(r"^\| (python -m )?melfront", done.stdout, re.MULTILINE)
