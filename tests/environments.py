"""Virtual environments with this one's packages but without melfront, and wheels for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy

from tests.conftest import CHECKOUT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it there

FOLDERS = ("melfront", "encoder", "parity", "benchmarks", "reference_data")


def pyproject() -> dict[str, Any]:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))


def python_without(folder: Path, *packages: str) -> Path:
    """Create a virtual environment that links this one's packages except these and melfront."""
    venv.create(folder, symlinks=True)
    site = site_packages(folder)
    for entry in Path(numpy.__file__).parents[1].iterdir():
        left_out = entry.name.startswith(("__editable__", "melfront"))
        left_out |= entry.name.partition("-")[0] in packages or entry.suffix == ".pth"
        if not left_out and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def site_packages(folder: Path) -> Path:
    return next(folder.glob("lib/python*/site-packages"))


def copy_of_the_checkout(folder: Path) -> Path:
    """Copy only the packages of the checkout."""
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, folder / name, ignore=ignored)
    return folder


def build_wheel(folder: Path) -> Path:
    source = folder / "source"
    copy_of_the_checkout(source)
    for name in ("docs", "web"):
        shutil.copytree(CHECKOUT / name, source / name)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    options = ["-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, source], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, python: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--python", python]
    options = ["-q", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, "install", *options, wheel], check=True)


def environment(path: str | Path = "") -> dict[str, str]:
    """This process's environment with another PYTHONPATH and without writing .pyc files."""
    return {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
