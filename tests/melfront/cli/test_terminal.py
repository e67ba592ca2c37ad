"""The output of the commands on a terminal of 80 columns and in a pipe."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import melfront
from melfront.command.terminal import wrapped
from melfront.parity.mistakes import FRONT_END, everything
from melfront.parity.stages import BLOCK, LAST, STEM
from melfront.parity.stages import FRONT_END as FRONT_END_STAGES
from tests.conftest import CHECKOUT
from tests.signals import sample

WIDTH = 80
COMMANDS = [
    "encoder",
    "encoder -o mine.safetensors",
    "encoder --help",
    "encoder nothing-of-this-name-is-here-to-be-read.wav --model neither-a-file-nor-a-size",
    "melfront",
    "melfront speech.npy-that-is-not-there-but-has-a-name-so-long-that-one-line-cannot-hold-it.wav",
    "melfront -o mel.npy --n-mels 80",
    "melfront --help",
    "parity --help",
    "parity stages",
    "parity mistakes",
    "parity dump -o dump.npz --stages features",
    "parity dump -o dump.npz --stages features of-no-such-name",
    "parity compare --help",
    "parity dump --help",
    "parity compare mel.npy",
    "parity compare mel.npy --n-mels 80 --pad-to 8.1",
    "parity compare mine.safetensors",
    "parity compare port.npz",
    "parity compare port.npz --json",
    "reference_data.make no-such-part-of-them",
    "reference_data.make_picture --help",
]
# Run all commands in one process, which imports everything once. Show progress bars immediately.
RUN = """
import importlib, sys
from melfront import command
command.PROGRESS["delay"] = 0
for line in sys.argv[1:]:
    for stream in sys.stdout, sys.stderr:
        print("$", line, file=stream, flush=True)
    module, *words = line.split()
    if module in ("encoder", "melfront", "parity"):
        module += ".__main__"
    try:
        importlib.import_module(module).main(words)
    except SystemExit:
        pass
    sys.stdout.flush()
"""


def terminal() -> tuple[int, int]:
    """The read and write ends of a terminal of 80 columns."""
    read_end, write_end = pty.openpty()
    fcntl.ioctl(write_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    return read_end, write_end


def read(end: int) -> str:
    """Everything written until the last write end is closed."""
    parts = []
    try:
        while part := os.read(end, 1 << 16):
            parts.append(part)
    except OSError:  # Linux signals the end of a terminal this way
        pass
    os.close(end)
    return b"".join(parts).decode().replace("\r\n", "\n")


def by_command(text: str) -> dict[str, str]:
    found = re.split(r"(?:^|\r)\$ (.*)\n", text, flags=re.MULTILINE)[1:]  # \r: after a bar
    return dict(zip(found[::2], found[1::2], strict=True))


def printed(folder, ends) -> tuple[dict[str, str], dict[str, str]]:
    """stdout and stderr of each command. `ends`: a (read, write) pair for each stream."""
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    environment["PYTHONPATH"] = str(CHECKOUT)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *COMMANDS],
        cwd=folder,
        env=environment,
        stdout=ends[0][1],
        stderr=ends[1][1],
    )
    for _, to in ends:
        os.close(to)
    with ThreadPoolExecutor() as pool:  # read both at once, so that neither fills up
        out, err = pool.map(read, [end for end, _ in ends])
    assert process.wait() == 0, err
    return by_command(out), by_command(err)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the output of a port whose mistake has a long description."""
    folder = tmp_path_factory.mktemp("terminal")
    (entry,) = (e for e in FRONT_END if e.name == "zero padding")
    port = melfront.variants.log_mel(sample(), n_mels=80, convention=entry.convention())
    np.savez(folder / "port.npz", features=port.astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def shown(folder):
    return printed(folder, [terminal(), terminal()])


@pytest.fixture(scope="module")
def piped(folder):
    return printed(folder, [os.pipe(), os.pipe()])


def without_bars(err: str) -> str:
    """The text that remains on the screen after bars are overwritten from the left edge."""
    return "\n".join(line.split("\r")[-1] for line in err.split("\n"))


@pytest.mark.parametrize("command", COMMANDS)
def test_output_fits_the_terminal(shown, piped, command):
    """No line is wider than the terminal, and wrapping changes nothing but whitespace."""
    out, err = (found[command] for found in shown)
    lines = out.splitlines() + without_bars(err).splitlines()
    assert lines
    for line in lines:
        assert len(line) <= WIDTH or line.startswith("{") or " " not in line.strip(), line
    assert out.split() == piped[0][command].split()
    assert without_bars(err).split() == piped[1][command].split()


def test_table_columns_are_aligned(shown):
    out = shown[0]["encoder"].splitlines()
    table = [line for line in out[out.index("") + 1 :] if line.strip()][:-2]
    assert len({len(line) for line in table}) == 1, "the last column is not aligned"
    out = shown[0]["parity stages"].splitlines()
    indents = {len(line) - len(line.lstrip()) for line in out}
    assert indents == {0, out[0].index("the waveform")}


def test_pipe_gets_one_record_per_line(piped):
    """So that grep finds whole records."""
    out, err = piped
    lines = {command: text.splitlines() for command, text in out.items()}
    entries = list(everything())
    assert len(lines["parity mistakes"]) == len(entries)
    for entry, line in zip(entries, lines["parity mistakes"], strict=True):
        assert line.startswith(entry.name)
        assert line.endswith(entry.sentence)
    every = [*FRONT_END_STAGES, *STEM, *BLOCK, *LAST]
    for stage, line in zip(every, lines["parity stages"], strict=True):
        assert line.endswith(stage.meaning)
    assert len(lines["melfront"]) == 1
    judged = [line for line in lines["parity compare mine.safetensors"] if "max abs" in line]
    assert len(judged) == 6
    assert all(line.endswith(("frames bad", "positions bad")) for line in judged)
    (wrong,) = (line for line in lines["parity compare port.npz"] if "looks like" in line)
    assert wrong.startswith("features  WRONG")
    assert len(wrong) > 2 * WIDTH
    assert all(text.count("\n") <= 1 for text in err.values()), "an error is not one line"


def test_json_is_not_wrapped_on_a_terminal(shown):
    (line,) = shown[0]["parity compare port.npz --json"].splitlines()
    assert json.loads(line)["mistakes"][0]["name"] == "zero padding"


def test_progress_bars_on_a_terminal(shown, piped):
    """They are removed at the end, and a pipe gets none."""
    for command, bars in {
        "encoder": ["sample.flac"],
        "parity compare mine.safetensors": ["float64", "float32"],
        "parity compare port.npz": [],
    }.items():
        for bar in bars:
            assert re.search(rf"{bar}: +[1-9]\d*%", shown[1][command]), bar
        assert not piped[1][command]
        assert not without_bars(shown[1][command]).strip()


@pytest.mark.parametrize("width", [1, 20, 40, 80, 132])
def test_wrapped(width):
    lines = [entry.name + "  " + entry.stage + "  " + entry.sentence for entry in everything()]
    lines += ["", "   ", "word", "    an indented line  with columns", "a" * 200, "a  " + "b" * 200]
    lines += ["x  y  " * 40, "one  two three " + "four " * 50, "  " + "word " * 60]
    for line in lines:
        pieces = wrapped(line, width).split("\n")
        assert " ".join(pieces).split() == line.split()
        assert all(len(piece) <= width or len(piece.split()) == 1 for piece in pieces), pieces
        assert wrapped(line, 10_000) == line
