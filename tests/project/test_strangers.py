"""melfront works in projects that have their own modules named `encoder`, `parity` or `benchmarks`.

The wheel is installed; the checkout cannot be imported.
"""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.environments import copy_of_the_checkout, environment, python_without

PORT = """
import melfront


def my_log_mel(audio):
    return melfront.log_mel(audio, n_mels=80) - 1  # where 4 is added before dividing by 4
"""
# A test suite for the project's own code, which also compares its port by the plugin's fixture.
SUITE = """
{theirs}
from port import my_log_mel


def test_theirs():
    assert all(module.WHOSE == "theirs" for module in ({names},))


def test_features(parity_reference):
    parity_reference.check(my_log_mel(parity_reference.audio), "features")
"""
CONFTEST = """
import pytest


@pytest.fixture(scope="session")
def parity_options():
    return {"n_mels": 80}
"""
# A program that uses our and its own modules, in child processes and in pickles too.
WORK = """
import multiprocessing, pickle, subprocess, sys
from pathlib import Path

import numpy as np

{theirs}
from melfront import encoder as our_encoder, load_audio, parity as our_parity
from melfront.encoder import EncoderConfig
from port import my_log_mel

THEIRS = ({names},)


def whose(module):
    return sys.modules[module].WHOSE


def main():
    here = Path(__file__).parent
    for module in THEIRS:
        assert module.WHOSE == "theirs" and Path(module.__file__).is_relative_to(here)
    assert not Path(our_encoder.__file__).is_relative_to(here)
    size = our_encoder.SIZES["tiny"]
    again = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1])))"
    command = [sys.executable, "-c", again, pickle.dumps(size).hex()]
    assert subprocess.check_output(command, text=True).strip() == str(size)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(EncoderConfig.to_hf, [size]) == [size.to_hf()]
        assert set(pool.map(whose, [module.__name__ for module in THEIRS])) == {{"theirs"}}
    assert our_parity.compare.__module__.startswith("melfront.parity.")
    assert our_encoder.ops is sys.modules["melfront.encoder.ops"]
    np.savez("mine.npz", log_mel=my_log_mel(load_audio("sample")))


if __name__ == "__main__":
    main()
"""
KERNEL = """
import encoder
import torch.nn.functional as F

assert encoder.WHOSE == "theirs"


def layer_norm(x, weight, bias, eps=1e-5):
    return F.layer_norm(x, weight.shape, weight, bias, eps)
"""
WHOSE = "WHOSE = 'theirs'\n"
# Name -> the project's own files, and the modules to import from them.
PROJECTS = {
    "encoder.py, parity.py": (["encoder.py", "parity.py"], ["encoder", "parity"]),
    "benchmarks and reference_data": (
        [
            "encoder.py",
            "benchmarks/__init__.py",
            "reference_data/__init__.py",
            "reference_data/a.py",
        ],
        ["encoder", "benchmarks", "reference_data", "reference_data.a"],
    ),
    "packages of every name": (
        [
            *("encoder/__init__.py", "encoder/ops.py", "encoder/oracle.py"),
            *("parity/__init__.py", "parity/__main__.py", "parity/compare.py", "parity/stages.py"),
            *("benchmarks/__init__.py", "benchmarks/kernel.py", "reference_data/floors.py"),
            "checkout.py",
        ],
        ["encoder", "encoder.ops", "parity", "parity.compare", "benchmarks", "checkout"],
    ),
}
CENTRAL = "packages of every name"


@pytest.fixture
def project(request, tmp_path):
    files, names = PROJECTS[request.param]
    for file in files:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(WHOSE)
    texts = {"theirs": f"import {', '.join(names)}", "names": ", ".join(names)}
    (tmp_path / "port.py").write_text(PORT)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_port.py").write_text(SUITE.format(**texts))
    (tmp_path / "work.py").write_text(WORK.format(**texts))
    (tmp_path / "kernel.py").write_text(KERNEL)
    return tmp_path


@pytest.fixture
def run(project):
    def run(python, *arguments, path=""):
        """Run a program in the project's folder."""
        command = [python.with_name(arguments[0]), *arguments[1:]]
        return subprocess.run(
            command, cwd=project, env=environment(path), capture_output=True, text=True
        )

    return run


def projects():
    return [
        pytest.param(name, marks=[] if name == CENTRAL else pytest.mark.slow) for name in PROJECTS
    ]


@pytest.mark.slow
@pytest.mark.parametrize("project", projects(), indirect=True)
def test_theirs_and_ours(installed, run):
    done = run(installed, "python", "work.py")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr

    done = run(installed, "melfront", "parity", "compare", "mine.npz", "--n-mels", "80")
    assert (done.returncode, done.stderr) == (1, "")
    assert "features  WRONG" in done.stdout
    assert "looks like: offset left out" in done.stdout

    done = run(installed, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "looks like: offset left out" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("project", [CENTRAL], indirect=True)
def test_benchmarks_in_child_processes(installed, run):
    """A kernel that imports the project's `encoder`, and a benchmark that starts a process."""
    quick = ["--depth", "1", "--seconds", "0.1", "--threads", "1"]
    done = run(installed, "melfront", "kernel", "layer_norm", "kernel.py", *quick)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "\nPASS: " in done.stdout
    work = ["--work", "8.1 s padded to 30 s", "--threads", "1", "--seconds", "0.1"]
    done = run(installed, "melfront", "benchmarks", "frontend", *work)
    assert done.returncode == 0, done.stderr
    assert "| melfront, torch " in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("project", projects(), indirect=True)
def test_checkout_on_pythonpath(run, tmp_path_factory):
    """With melfront not installed but on PYTHONPATH, the project's own modules still win."""
    checkout = copy_of_the_checkout(tmp_path_factory.mktemp("checkout"))
    python = python_without(tmp_path_factory.mktemp("python"))
    done = run(python, "python", "work.py", path=checkout)
    assert (done.returncode, done.stderr) == (0, "")
    compare = ["-m", "melfront", "parity", "compare", "mine.npz", "--n-mels", "80"]
    done = run(python, "python", *compare, path=checkout)
    assert (done.returncode, done.stderr) == (1, "")
    assert "looks like: offset left out" in done.stdout


def test_wheel_contains_only_melfront(wheel, installed, tmp_path):
    with zipfile.ZipFile(wheel) as file:
        names = [name for name in file.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"melfront"}
    for name in (
        "reference_data/sample.flac",
        "reference_data/c/check.c",
        "reference_data/README.md",
        "parity/MISTAKES.md",
        "benchmarks/RESULTS.md",
        "docs/api.md",
        "encoder/report/templates/page.html.jinja",
        "parity/comparison/compare.py",
        "web/melfront.js",
    ):
        assert f"melfront/{name}" in names
    assert shutil.which("melfront", path=Path(installed).parent)
    code = "import {}"
    for name in ("encoder", "parity", "benchmarks", "reference_data", "checkout", "tests"):
        done = subprocess.run(
            [installed, "-c", code.format(name)],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
        )
        assert done.returncode != 0
        assert f"No module named '{name}'".encode() in done.stderr
