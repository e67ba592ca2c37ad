"""Commands that are interrupted, terminated and killed, at every moment: one line, no litter.

A command cannot answer before Python and NumPy are loaded: the system or Python ends it then. It
has written nothing by that time.
"""

import fcntl
import os
import pty
import random
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest

from melfront.benchmarks.kernel.sandbox.processes import below, parents
from tests.conftest import CHECKOUT
from tests.printed import all_shown

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
SAID = {"SIGINT": "interrupted", "SIGTERM": "ended by SIGTERM", "SIGHUP": "ended by SIGHUP"}
# In short sleeps: Python does not see a signal that comes just before it asks the system to sleep.
START = """
import sys, time
from pathlib import Path
from melfront.command import *
def sleep():
    for _ in range(1000):
        time.sleep(0.1)
"""
# While it writes a file, it says so and waits.
WRITING = """
def work():
    with replacing(Path(sys.argv[1])) as temporary:
        temporary.write_text("half")
        print("ready", flush=True)
        sleep()
sys.exit(exit_status("x", work))
"""
# A callback of a weak reference, from which Python lets no exception out.
DROPPED = """
import weakref
def busy(_):
    print("ready", flush=True)
    end = time.time() + 0.5
    while time.time() < end:
        pass
class Thing:
    pass
def work():
    thing = Thing()
    reference = weakref.ref(thing, busy)
    del thing
    sleep()
sys.exit(exit_status("x", work))
"""
# A progress bar as the commands have it, but at once.
BAR = """
from tqdm import tqdm
def work():
    for i in tqdm(range(1000), **{**PROGRESS, "delay": 0, "mininterval": 0}):
        if i == 10:
            print("ready", flush=True)
        time.sleep(0.01)
sys.exit(exit_status("x", work))
"""


def start(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """Code in a process of its own, which has printed "ready"."""
    process = subprocess.Popen(
        [sys.executable, "-c", START + code, *map(str, arguments)],
        **{"cwd": CHECKOUT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        | options,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def ended(pid: int, seconds: float = 30) -> bool:
    end = time.time() + seconds
    while time.time() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_while_writing(number, tmp_path):
    (tmp_path / "file").write_text("old")
    process = start(WRITING, tmp_path / "file")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert err == f"x: {SAID[number.name]}\n"
    assert process.returncode == 128 + number
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_ignored_signal_stays_ignored(tmp_path):
    """As nohup has it."""
    ignore = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = start(ignore + WRITING, tmp_path / "file")
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.terminate()
    assert process.communicate(timeout=60)[1] == "x: ended by SIGTERM\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_that_python_drops(number):
    """matplotlib, for one, has thousands of such callbacks; a run that goes on is not stopped."""
    process = start(DROPPED)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert err == f"x: {SAID[number.name]}\n"
    assert process.returncode == 128 + number


def test_signal_inside_a_progress_bar():
    """The message has a line of its own: the bar is taken away first."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = start(BAR, stderr=theirs)
    os.close(theirs)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    shown = all_shown(ours)
    assert process.wait(60) == 130
    *bars, last = shown.decode().rstrip("\r\n").split("\r")
    assert any("/1000" in bar for bar in bars)
    assert not bars[-1].strip()
    assert last == "x: interrupted"


def test_interrupt_while_torch_is_imported():
    options = {"cwd": CHECKOUT, "stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", "encoder"], **options, text=True)
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (err, process.returncode) == ("melfront encoder: interrupted\n", 130)


# --- children -------------------------------------------------------------------------------------

MEASURING = """
from melfront.benchmarks.speed.own_process import in_process
print("ready", flush=True)
work = lambda: in_process("tests.processes.test_kills:wait_in_a_folder", {"file": sys.argv[1]}, 1)
sys.exit(exit_status("x", work))
"""


def wait_in_a_folder(file: str) -> None:
    """As the benchmark of loading does, with a checkpoint in its folder."""
    from melfront.command import scratch_folder

    with scratch_folder() as folder:
        (folder / "large").write_text("")
        Path(file).write_text(f"{os.getpid()} {folder}")
        time.sleep(100)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's PR_SET_PDEATHSIG")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_benchmark_leaves_no_child(number, tmp_path):
    """Not even where the benchmark is killed and can end nothing itself."""
    file = tmp_path / "file"
    process = start(MEASURING, file)
    while not file.exists() or len(file.read_text().split()) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    child, folder = file.read_text().split()
    process.send_signal(number)
    process.communicate(timeout=60)
    assert ended(int(child))
    assert not Path(folder).exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to find the processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_hanging_kernel_does_not_outlive_the_harness(number, tmp_path):
    kernel, file = tmp_path / "hangs.py", tmp_path / "called"
    kernel.write_text(
        f"def gelu(x):\n    open({str(file)!r}, 'w').close()\n    while True:\n        pass\n"
    )
    words = ["-m", "benchmarks", "kernel", "gelu", str(kernel), "--limit", "100"]
    process = subprocess.Popen(
        [sys.executable, *words], cwd=CHECKOUT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    while not file.exists():
        assert process.poll() is None
        time.sleep(0.05)
    started = below({process.pid}, parents())
    process.send_signal(number)
    process.communicate(timeout=60)
    assert len(started) >= 3  # the fork server, the worker and its keeper
    assert all(map(ended, started))


# --- commands, at random moments ------------------------------------------------------------------

TOY = ["--model", "formula:toy"]
COMMANDS = {  # the last word is the file that is written
    "melfront npy": ["melfront", "-o", "a.npy"],
    "melfront npz": ["melfront", "-o", "a.npz"],
    "melfront png": ["melfront", "--plot", "a.png"],
    "encoder": ["encoder", *TOY, "-o", "a.npz"],
    "report": ["encoder", *TOY, "--report", "a.html"],
    "export": ["encoder", "export", "--part", "front-end", "-o", "a.pt2"],
    "dump npz": ["parity", "dump", *TOY, "-o", "a.npz"],
    "dump safetensors": ["parity", "dump", *TOY, "-o", "a.safetensors"],
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in list(COMMANDS)[1:]]


def kill_at(moment: float, words: list[str], folder: Path, number: signal.Signals) -> None:
    """Start a command and end it; what it says on stderr must be one line."""
    process = begun(words, folder)
    time.sleep(moment)
    process.send_signal(number)
    _, err = process.communicate(timeout=100)
    if process.returncode == 128 + number:
        assert err.endswith(f": {SAID[number.name]}\n"), err
        assert err.count("\n") == 1, err
    else:  # killed, ended before the signal, or had not begun
        assert process.returncode in (0, -number) or moment < 1, err


def begun(words: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "SOURCE_DATE_EPOCH": "0"}
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def content(file: Path) -> object:
    """What must be the same in every run: of a zip, not the times of its members."""
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            return {name: (arrays[name].shape, arrays[name].tobytes()) for name in arrays}
    return file.stat().st_size if file.suffix == ".pt2" else file.read_bytes()


@pytest.mark.parametrize("command", ["melfront npy", *SLOW])
def test_random_moments(command, tmp_path):
    """The file is absent or whole after each; the next run finds no litter and writes it."""
    words, file = COMMANDS[command], tmp_path / COMMANDS[command][-1]
    began = time.perf_counter()
    process = begun(words, tmp_path)
    assert process.communicate()[1] == ""
    took = time.perf_counter() - began
    expected, rng = content(file), random.Random(command)
    for number in 2 * [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]:
        file.unlink(missing_ok=True)
        kill_at(rng.uniform(0, took), words, tmp_path, number)
        assert not file.exists() or content(file) == expected
    process = begun(words, tmp_path)
    assert process.communicate()[1] == ""
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert content(file) == expected
