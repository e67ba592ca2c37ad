"""In a checkout, `encoder` and `melfront.encoder` are two names of the same module."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import melfront.__main__
from tests.conftest import CHECKOUT
from tests.environments import FOLDERS, environment, pyproject, python_without

ROOMS = [name for name in FOLDERS if name != "melfront"]
# Importing these starts work or needs packages that are not installed.
NOT_IMPORTED = r"benchmarks\.(examples\.|kernel\.(worker\.worker|child)$)"
MODULES = [
    name
    for room in ROOMS
    for path in sorted((CHECKOUT / room).rglob("*.py"))
    if not re.match(
        NOT_IMPORTED, name := ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
    )
    and path.name != "__init__.py"
]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Run a Python that does not have melfront installed."""
    python = python_without(tmp_path_factory.mktemp("bare"))

    def run(*arguments, cwd=CHECKOUT, path=""):
        return subprocess.run(
            [python, *map(str, arguments)],
            cwd=cwd,
            env=environment(path),
            text=True,
            capture_output=True,
        )

    return run


# Import every module by both names, in either order, then look for duplicates in sys.modules.
BOTH = """
import json, sys
from importlib import import_module
top, order, *names = sys.argv[1:]
rooms = {name.split(".")[0] for name in names}
for name in names:
    pair = [name, "melfront." + name]
    short, long = map(import_module, pair) if order == "short" else map(import_module, pair[::-1])
    assert short is long, name
ours = {name: module for name, module in sys.modules.items() if name.split(".")[0] in rooms}
twice = {}
for name, module in ours.items():
    assert module is sys.modules["melfront." + name], name
for name, module in sys.modules.items():
    file = getattr(module, "__file__", None)
    if name != "__main__" and file and file.startswith(top):
        twice.setdefault(file, set()).add(id(module))
classes = {value.__module__ for module in ours.values() for value in vars(module).values()
           if isinstance(value, type)}
wrong = [name for name in classes if name.split(".")[0] in rooms]
print(json.dumps([len(ours), [file for file, ids in twice.items() if len(ids) > 1], wrong]))
"""


@pytest.mark.parametrize("order", ["short", pytest.param("long", marks=pytest.mark.slow)])
def test_no_module_or_class_exists_twice(bare, order):
    done = bare("-c", BOTH, CHECKOUT, order, *MODULES)
    assert done.returncode == 0, done.stderr
    ours, twice, wrong = json.loads(done.stdout)
    assert ours > len(MODULES) > 60
    assert twice == []
    assert wrong == []


@pytest.mark.parametrize(
    ("room", "first"),
    [
        ("encoder", "import encoder"),
        ("encoder", "from encoder import __main__"),
        ("encoder", "import melfront; import encoder"),
        ("encoder", "import melfront.encoder"),
        ("encoder", "from melfront import encoder"),
        ("encoder", "import importlib.util; importlib.util.find_spec('encoder.__main__')"),
        ("parity", "import parity"),
        ("parity", "import melfront.encoder.__main__"),
        ("benchmarks", "import benchmarks"),
    ],
)
def test_any_import_order(bare, room, first):
    code = f"""
{first}
import {room}, melfront.{room}, {room}.__main__, sys
assert {room} is melfront.{room} is sys.modules["{room}"]
assert {room}.__name__ == {room}.__spec__.name == {room}.__package__ == "melfront.{room}"
assert {room}.__main__ is melfront.{room}.__main__ is sys.modules["{room}.__main__"]
assert "torch" not in sys.modules
"""
    done = bare("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "-m melfront",
        "-m encoder",
        "-m melfront.encoder",
        "-m melfront encoder",
        "-m parity",
        "-m melfront.parity",
        "-m melfront parity",
        "-m benchmarks",
        "-m melfront.benchmarks",
        "-m melfront benchmarks",
        "-m melfront kernel",
        "-m reference_data.make",
        "-m melfront.reference_data.make",
    ],
)
def test_commands_without_installation(bare, arguments):
    done = bare("-W", "error", *arguments.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: " in done.stdout


def test_missing_module(bare):
    for name in (
        "encoder.nothing",
        "melfront.encoder.nothing",
        "melfront.tests",
        "melfront.melfront",
    ):
        done = bare("-c", f"import {name}")
        assert done.stderr.endswith(f"ModuleNotFoundError: No module named '{name}'\n")


def test_pickle_contains_the_long_name(bare):
    code = "import pickle, sys; from {} import SIZES; {}"
    written = bare("-c", code.format("encoder", "print(pickle.dumps(SIZES['tiny']).hex())")).stdout
    assert b"melfront.encoder.config" in bytes.fromhex(written)
    done = bare(
        "-c", code.format("melfront.encoder", f"pickle.loads(bytes.fromhex('{written.strip()}'))")
    )
    assert done.stderr == ""
    assert pickle.loads(bytes.fromhex(written)) is not None


PROCESSES = """
import multiprocessing
from encoder import config

def main():
    for method in multiprocessing.get_all_start_methods():
        with multiprocessing.get_context(method).Pool(1) as pool:
            (size,) = pool.map(config.SIZES.__getitem__, ["tiny"])
            assert type(size) is config.EncoderConfig, method

if __name__ == "__main__":
    main()
"""


def test_multiprocessing_without_installation(bare, tmp_path):
    (tmp_path / "work.py").write_text(PROCESSES)
    done = bare(tmp_path / "work.py", path=CHECKOUT)
    assert done.returncode == 0, done.stderr


def test_user_module_named_encoder_is_not_shadowed(bare, tmp_path):
    """The checkout is on sys.path after a folder that contains an `encoder.py`."""
    (tmp_path / "encoder.py").write_text("WHOSE = 'theirs'\n")
    code = """
import encoder, melfront, sys
from melfront.encoder import ops
from melfront import encoder as ours
import encoder
assert encoder.WHOSE == "theirs" and ours is not encoder and ours.ops is ops
assert "encoder.ops" not in sys.modules
"""
    for start in ("", "from melfront import encoder\n", "import melfront.parity.stages\n"):
        done = bare("-c", start + code, cwd=tmp_path, path=CHECKOUT)
        assert done.returncode == 0, done.stderr


# pyproject.toml


def test_every_folder_is_in_the_wheel():
    settings = pyproject()["tool"]
    mapped = settings["setuptools"]["package-dir"]
    assert mapped == {f"melfront.{folder}": folder for folder in [*ROOMS, "docs", "web"]}
    folders = [path.parent for name in FOLDERS for path in (CHECKOUT / name).rglob("__init__.py")]
    names = {".".join(folder.relative_to(CHECKOUT).parts) for folder in folders}
    long = {name if name.split(".")[0] == "melfront" else f"melfront.{name}" for name in names}
    assert set(settings["setuptools"]["packages"]) == long | {"melfront.docs", "melfront.web"}


@pytest.mark.skipif(
    os.name == "nt" or not (CHECKOUT / "typings").is_dir(),
    reason="an sdist has no typings/, and git on Windows checks symlinks out as files",
)
def test_mypy_finds_every_package():
    settings = pyproject()["tool"]["mypy"]
    links = {path.name: path.resolve() for path in (CHECKOUT / "typings" / "melfront").iterdir()}
    assert links == {name: (CHECKOUT / name).resolve() for name in links}
    assert set(settings["packages"]) == {"melfront"} | {f"melfront.{name}" for name in links}


# Subcommands


SUB_COMMANDS = {
    "encoder": "encoder",
    "parity": "parity",
    "benchmarks": "benchmarks",
    "kernel": "benchmarks kernel",
}


def test_subcommands_match_the_commands(capsys, tmp_path, monkeypatch):
    main = melfront.__main__.main
    assert set(SUB_COMMANDS) == set(melfront.__main__.COMMANDS)
    for name, same in SUB_COMMANDS.items():
        module, *first = same.split()
        room = import_module(f"melfront.{module}.__main__")
        printed = []
        for function, words in ((main, [name]), (room.main, first)):
            try:
                status = function([*words, "--help"])
            except SystemExit as end:
                status = end.code
            assert not status
            printed.append(capsys.readouterr().out)
        assert printed[0] == printed[1] != ""
        assert f"melfront {name}" in melfront.__main__.parser().format_help()
    monkeypatch.chdir(tmp_path)
    Path("encoder").write_bytes((CHECKOUT / "reference_data" / "sample.flac").read_bytes())
    assert main(["./encoder"]) == 0
    assert capsys.readouterr().out.startswith("encoder: 8.10 s")


def test_help_is_fast_and_does_not_import_torch():
    code = (
        "import sys, time; from melfront.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules, time.process_time())"
    )
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True) for _ in range(5)]
    torch, seconds = zip(*(run.stdout.splitlines()[-1].split() for run in runs), strict=True)
    assert set(torch) == {"False"}
    assert min(map(float, seconds)) <= 0.3
