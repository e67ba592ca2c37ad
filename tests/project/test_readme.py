"""Every command and every code block of every README runs and prints the output shown below it.

A `python` block runs in a temporary folder that contains only the files it names; a `text` block
after it is the expected output. `sh` blocks contain commands, `console` blocks a command and its
output. Folders with formula weights stand in for published checkpoints, the only files that a
reader would download. `.ci/run` runs the commands in an empty folder with the wheel
installed, and the two commands that create a virtual environment word for word. In a checkout the
commands are slow tests.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import melfront
from tests.conftest import CHECKOUT
from tests.printed import NOISE, like
from tests.project.readme_files import PORT, prepare, right_features_of_speech

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "parity/README.md",
    "benchmarks/README.md",
    "reference_data/README.md",
    "docs/description.md",
]
# Over 10 s each: the kernel harness, all libraries, a trace of a whole encoder, the largest one.
SLOW = ("benchmarks kernel", "benchmarks frontend", "parity libraries", "stages.npz")
SLOW += ("whisper-large-v3",)
INSTALLED = not Path(melfront.__file__).is_relative_to(CHECKOUT)
# `.ci/run` runs them with the wheel, as readers do; in a checkout they are slow tests.
ONCE = [] if INSTALLED else [pytest.mark.slow]
# Not run as blocks: these install packages, work on the checkout for half an hour, or run in
# `test_units_of_noise`.
NOT_HERE = ["pip install", "reference_data.make ", "mine.safetensors"]
NOT_HERE += ["wc -l"] if INSTALLED else []  # it counts the lines of the checkout's files


class Block(NamedTuple):
    page: str
    language: str
    text: str
    shown: str  # the expected output

    @property
    def title(self) -> str:
        return f"{self.page}: {self.text.strip().splitlines()[0]}"


def read(page: str) -> str:
    return (CHECKOUT / page).read_text("utf-8")


def blocks(page: str) -> list[Block]:
    fence = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", flags=re.MULTILINE | re.DOTALL)
    found = [(language, textwrap.dedent(text)) for _, language, text in fence.findall(read(page))]
    result = []
    for i, (language, text) in enumerate(found):
        following = found[i + 1] if i + 1 < len(found) else ("", "")
        if language != "text":
            shown = following[1] if following[0] == "text" else ""
            result.append(Block(page, language, text, shown))
    return result


def plain(commands: str) -> list[str]:
    """One command per line, without comments."""
    return [re.sub(r"\s+#.*", "", line) for line in commands.strip().splitlines()]


BLOCKS = [block for page in PAGES for block in blocks(page)]


def shorter(command: str) -> bool:
    """Whether a page has the command with further options, as which it is run."""
    return any(
        longer.startswith(f"{command} --")
        for block in BLOCKS
        if block.language == "sh"
        for longer in plain(block.text)
    )


def params(*languages, marks=()):
    """The blocks to run, without later ones that repeat the same commands."""
    once = {(b.language, *plain(b.text)): b for b in reversed(BLOCKS)}.values()
    return [
        pytest.param(
            block,
            id=block.title,
            marks=[pytest.mark.slow] if any(word in block.text for word in SLOW) else marks,
        )
        for block in BLOCKS
        if block.language in languages
        and not any(word in block.text for word in NOT_HERE)
        and block in once
    ]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# Run a block and compare its output.


def run(command: str) -> tuple[int, str]:
    """Exit status and output of a command.

    In a checkout, our own commands run in this process, which has everything imported. With an
    installed wheel, they run in a process of their own, as a reader would run them. Benchmarks are
    limited to 0.1 s: here only the table's form matters. A kernel is proved, and timed as the page
    says for who is in a hurry.
    """
    command = re.sub(r"benchmarks (frontend|encoder|load)\b", r"\g<0> --seconds 0.1", command)
    command = re.sub(r"benchmarks kernel (?=\w)", r"\g<0>--no-whole --seconds 1 ", command)
    words, _, target = command.partition(" > ")
    program, *words = shlex.split(words)
    if program == "python":
        _, name, *words = words
    else:
        name = program if program == "melfront" else ""
    if INSTALLED or name in ("", "pytest"):
        start = [sys.executable, "-m", name] if program == "python" else [program]
        if program == "melfront":
            start = [str(Path(sys.executable).with_name("melfront"))]
        done = subprocess.run([*start, *words], capture_output=True, text=True)
        if target and not done.returncode:
            Path(target).write_text(done.stdout)
            return done.returncode, done.stderr
        return done.returncode, done.stdout + done.stderr
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            status = module.main(words)
        except SystemExit as end:
            status = end.code or 0
    if target:
        Path(target).write_text(out.getvalue())
        return status, ""
    return status, out.getvalue()


def assert_prints(shown: str, printed: str) -> None:
    lines = zip(shown.strip().splitlines(), printed.strip().splitlines(), strict=True)
    for expected, line in lines:
        assert like(expected, line), (expected, line)


def test_every_block_language_is_tested():
    languages = {block.language for block in BLOCKS}
    assert languages == {"python", "sh", "console", "c"}  # C: tests/reference_data/test_follow.py
    for page in PAGES[:3]:
        assert any(block.page == page for block in BLOCKS)


@pytest.mark.parametrize("block", params("sh", marks=ONCE))
def test_commands(block):
    prepare(block.text)
    printed = ""
    for command in plain(block.text):
        if shorter(command):
            continue
        status, out = run(command)
        assert status == 0, (command, out)
        printed += out
    if block.shown:
        assert_prints(block.shown, printed)


@pytest.mark.numeric
@pytest.mark.parametrize("block", params("console"))
def test_commands_with_what_they_print(block):
    prepare(block.text)
    command, shown = re.fullmatch(r"\$ (.*?)\n(.*)", block.text, flags=re.DOTALL).groups()
    status, out = run(command)
    assert status == (1 if "WRONG" in shown else 0), out
    assert_prints(shown, out)


def python_blocks(suite: bool):
    """The blocks for a reader's test suite, which use the plugin's fixtures, or the others."""
    return [p for p in params("python") if ("parity_" in p.values[0].text) == suite]


@pytest.mark.parametrize("block", python_blocks(suite=False))
def test_python(block):
    prepare(block.text)
    text = block.text
    if "mine = ..." in text:  # to be filled in by the reader
        np.save("mine.npy", right_features_of_speech()["features"])
        text = text.replace("mine = ...", "mine = np.load('mine.npy')")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(text, block.title, "exec"), {})
    if block.shown:
        assert_prints(block.shown, out.getvalue())
    else:
        assert not out.getvalue()


@pytest.mark.numeric
@pytest.mark.slow
def test_a_suite_of_the_readers_own():
    """Run pytest on a wrong port with the plugin's fixture, first without, then with options."""
    suite, options = (p.values[0] for p in python_blocks(suite=True))
    Path("my_port.py").write_text(PORT)
    Path("test_port.py").write_text(suite.text)
    status, out = run("python -m pytest -q --rootdir=. test_port.py")
    assert status == 1, out
    for expected in suite.shown.splitlines():
        assert any(like(expected, line) for line in out.splitlines()), (expected, out)

    prepare(options.text)
    Path("my_port.py").write_text(PORT.replace("128", "80"))
    Path("conftest.py").write_text(options.text)
    status, out = run("python -m pytest -q --rootdir=. test_port.py")
    assert status == 1, out
    assert "clip clip.wav, 80 bins, convention transformers, model openai/whisper-tiny" in out


@functools.cache
def usage(command: str) -> str:
    return run(f"melfront {command} --help")[1]


def test_commands_in_the_text_have_these_options():
    """Every --option that a page mentions outside its blocks exists."""
    for page, module, subcommands in (
        ("parity/README.md", "parity", ("compare", "dump", "mistakes")),
        ("benchmarks/README.md", "benchmarks", ("kernel", "frontend", "encoder", "load")),
    ):
        text = read(page)
        known = "".join(usage(f"{module} {name}") for name in subcommands)
        for option in set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)):
            assert re.search(rf"{option}\b", known), f"{page}: {option}"
    commands = re.findall(
        r"(?:python -m|melfront) (parity|benchmarks) (\w+) ([^`\n]*)", "".join(map(read, PAGES))
    )
    assert len(commands) > 5
    for module, name, arguments in commands:
        known = usage(f"{module} {name}")
        for option in re.findall(r"--[a-z][\w-]*", arguments):
            assert re.search(rf"{option}\b", known), f"{module} {name}: {option}"


def test_ci_runs_the_two_setup_commands():
    commands = [b.text.strip() for b in blocks("README.md") if "venv" in b.text]
    make = "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e "
    assert commands == [
        f"{make}'.[fast]' && .venv/bin/melfront encoder",
        f"{make}'.[test]' && .venv/bin/python -m pytest -q",
    ]


# Numbers that `tests/project/readme_numbers.py` does not write.


def claim(pattern: str) -> tuple[str, ...]:
    found = re.search(pattern, " ".join(read("README.md").split()))
    assert found, pattern
    return found.groups()


@pytest.mark.numeric
def test_units_of_noise():
    """The bounds hold on every CPU, although figures differ: ln_post is 0.5 on one, 1.0 on another.

    Our features are the float64 truth rounded once: at most half an ulp, where one unit is at least
    four. One unit for hidden states is the error of our encoder on transformers' features; our own
    features are more accurate, so we expect at most one unit, except for chance in rounding.
    """
    features, states = claim(
        r"Features are at most (\d\.\d+) units of noise from float64, "
        r"hidden states at most (\d\.\d+)\."
    )
    (block,) = (b for b in blocks("README.md") if "mine.safetensors" in b.text)
    for command in block.text.splitlines():
        status, out = run(command)
        assert status == 0, out
    *stages, headline = (line for line in out.splitlines() if "PASS" in line)
    assert like("all 6 stages PASS, at most 1 x noise", headline)
    noise = {line.split()[0]: float(NOISE.search(line)[0]) for line in stages}
    assert len(noise) == 6
    assert noise.pop("features") <= float(features)
    assert max(noise.values()) <= float(states), noise


def test_each_belief_has_a_test():
    rows = re.findall(r"\| \[`(\w+)`\]\(([\w/.]+)\) \|$", read("README.md"), flags=re.MULTILINE)
    section = read("README.md").partition("| people say |")[2].partition("\n\n")[0]
    assert len(rows) == len(section.splitlines()) - 2, "a row without a test"
    for test, path in rows:
        assert re.search(rf"^def {test}\(", read(path), flags=re.MULTILINE), (path, test)
    used = {test for test, _ in rows}
    pages = [read(f"tests/beliefs/test_{part}.py") for part in ("front_end", "encoder")]
    written = set(re.findall(r"^def (test_\w+)\(", "".join(pages), re.MULTILINE))
    assert written - used <= {"test_trained_positions_are_the_formula_too"}, written - used


@pytest.mark.parametrize("name", PAGES)
def test_links(name):
    """Every link to a file or folder of the repository has a target."""
    for target in re.findall(r"\]\(([^)#]+)\)", read(name)):
        if "://" not in target:
            assert (CHECKOUT / name).parent.joinpath(target).exists(), target
    for path in re.findall(
        r"`((?:melfront|encoder|parity|tests|benchmarks)/[\w/]+\.(?:py|md|c))`", read(name)
    ):
        assert (CHECKOUT / path).exists(), path


def test_the_picture_is_drawn_by_the_command_below_it():
    shown, command = claim(
        r"!\[[^]]*\]\(([\w/.]+)\) .*?`(python -m melfront.reference_data\.make_picture[^`]*)`"
    )
    assert (CHECKOUT / shown).stat().st_size < 150_000
    prepare(command)
    status, _ = run(command + " -o way.png")
    assert status == 0
    from PIL import Image

    with Image.open("way.png") as drawn, Image.open(CHECKOUT / shown) as committed:
        assert drawn.size == committed.size
