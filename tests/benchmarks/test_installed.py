"""The harness however the project is found: beside NumPy in site-packages, or as a checkout."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy
import pytest

from tests.conftest import CHECKOUT

KERNELS = Path(__file__).parent / "kernels"
OURS = ("benchmarks", "encoder", "melfront", "parity")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A Python with all that is installed here but the project, in one site-packages."""
    folder = tmp_path_factory.mktemp("python")
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for entry in Path(numpy.__file__).parents[1].iterdir():
        ours = entry.name.startswith(("__editable__", "melfront", *OURS))
        if entry.suffix != ".pth" and not ours and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkout")
    copy(folder)
    return folder


def copy(folder):
    for name in OURS:
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "reference_data").mkdir()
    shutil.copy(CHECKOUT / "reference_data" / "sample.flac", folder / "reference_data")


@pytest.fixture(params=["site-packages", "PYTHONPATH", "a line of a .pth", "the current folder"])
def started(request, python, checkout, tmp_path):
    """Runs a command where the project is found in this way; gives status, output and complaint."""
    site = next(python.parents[1].glob("lib/python*/site-packages"))
    path, cwd, made = "", tmp_path, []
    if request.param == "site-packages":
        copy(site)
        made = [site / name for name in (*OURS, "reference_data")]
    elif request.param == "PYTHONPATH":
        path = str(checkout)
    elif request.param == "the current folder":
        cwd = checkout
    else:
        made = [site / "checkout.pth"]
        made[0].write_text(f"{checkout}\n")

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
    for entry in made:
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def test_a_kernel_is_proved_and_the_fence_holds(started):
    names = ("reference", "calls_the_reference", "takes_the_fence_down")
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


def test_a_speed_is_measured(started):
    if started("frontend", "--help").returncode:
        pytest.fail("no help")
    work = ["--work", "8.1 s padded to 30 s", "--threads", "1", "--seconds", "0.1"]
    done = started("frontend", *work)
    assert done.returncode == 0, done.stderr
    assert "| melfront, torch " in done.stdout


def test_python_is_the_one_that_was_meant(python):
    """It has none of ours, or the tests above could not fail."""
    done = subprocess.run([python, "-c", "import melfront"], text=True, capture_output=True)
    assert "No module named 'melfront'" in done.stderr
    assert sys.executable != str(python)
