"""What a kernel can reach outside its process: with namespaces of its own, and without them."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from melfront.benchmarks.kernel import report, run
from melfront.benchmarks.kernel.reasons import Refused
from melfront.benchmarks.kernel.run import judge_file
from melfront.benchmarks.kernel.sandbox import process, processes
from melfront.benchmarks.kernel.sandbox.parent import Sandbox
from melfront.benchmarks.kernel.timing.times import REFERENCE
from tests.conftest import CHECKOUT
from tests.printed import all_shown

from .conftest import KERNELS, QUICK, copied, order

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs Linux's /proc and namespaces"
)


def no_gain(outcome):
    """Whether a kernel is refused, or at most no faster than the reference."""
    return not outcome.good or all(
        ratio < 1 or not counts
        for race in outcome.races.values()
        for ratio, counts in [race.ratio(REFERENCE)]
    )


# --- what it sees ---------------------------------------------------------------------------------

LOOKS = """
import json, os, socket
from pathlib import Path

def tried(look):
    try:
        return look()
    except OSError as error:
        return type(error).__name__

def links(pid):
    names = os.listdir(f"/proc/{pid}/fd")
    return sorted(os.readlink(f"/proc/{pid}/fd/{n}") for n in names if n != "255")

here, parent, port = Path(__file__).parent, PARENT, PORT
found = {
    "processes": [int(name) for name in os.listdir("/proc") if name.isdigit()],
    "signal": tried(lambda: os.kill(parent, 0)),
    "memory": tried(lambda: os.close(os.open(f"/proc/{parent}/mem", os.O_RDONLY))),
    "descriptors": tried(lambda: links(parent)),
    "command": tried(lambda: Path(f"/proc/{parent}/cmdline").read_text()),
    "network": tried(lambda: socket.create_connection(("127.0.0.1", port)).close()),
    "terminal": tried(lambda: os.close(os.open("/dev/tty", os.O_RDWR))),
    "terminals": [name for name in os.listdir("/dev/pts") if name.isdigit()],
    "shared memory": os.listdir("/dev/shm"),
    "own files": (here / "loaded").write_text("yes"),
    "user": os.getuid(),
}
(here / "found").write_text(json.dumps(found))

def layer_norm(x, weight, bias, eps=1e-5):
    return x
"""


@pytest.fixture
def neighbours():
    """A port that listens, and a terminal that is open."""
    import socket

    ends = pty.openpty()
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
    for end in ends:
        os.close(end)


def test_what_a_kernel_sees(isolated, neighbours, tmp_path):
    path = tmp_path / "looks.py"
    path.write_text(LOOKS.replace("PARENT", str(os.getpid())).replace("PORT", str(neighbours)))
    with Sandbox(order(path)) as child:
        assert bool(child.not_isolated) is not isolated
        mine = {os.readlink(fd) for fd in Path(f"/proc/{child.pid}/fd").iterdir()}
        maps = Path(f"/proc/{child.pid}/maps").read_text()
        assert processes.descendants(child.pid) == []
    found = json.loads((tmp_path / "found").read_text())
    # Two pipes, the nothing that is 0, 1 and 2; the memory is mapped, and has no descriptor.
    assert {name.partition(":")[0] for name in mine} == {"pipe", "/dev/null"}
    assert len(mine) == 3
    assert maps.count("(deleted)") == 1
    assert found["terminal"] == "OSError"
    assert found["user"] == os.getuid()
    assert found["own files"] == 3
    if isolated:
        assert len(found["processes"]) == 2
        assert found["signal"] == "ProcessLookupError"
        assert {found[what] for what in ("memory", "descriptors", "command")} == {
            "FileNotFoundError"
        }
        assert found["network"] == "OSError"
        assert found["terminals"] == found["shared memory"] == []
    else:
        assert os.getpid() in found["processes"]
        assert found["signal"] is found["network"] is None


def test_our_own_descriptors_of_a_workers_memory_are_closed(isolated):
    with Sandbox(order(KERNELS / "reference.py")):
        family = [os.getpid(), *processes.below({os.getpid()}, processes.parents())]
        assert len(family) >= 4
        for pid in family:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError):  # the one of this list
                    assert not os.readlink(f"/proc/{pid}/fd/{fd}").startswith(str(process.MEMORY))


def test_answers_do_not_stay_in_shared_memory():
    dice = run.Dice(1)
    case = run.find("layer_norm").edges(dice)[0]
    outs = run.find("layer_norm").results(case)
    with Sandbox(order(KERNELS / "reference.py")) as child:
        child.case(case, outs)
        child.write(case)
        child.call()
        assert child.copied[0].isfinite().all()
        assert child.results[0][0].isnan().all()


# --- how it ends ----------------------------------------------------------------------------------


def test_statuses_are_passed_on(isolated, tmp_path):
    path = tmp_path / "ends.py"
    ends = {
        "os._exit(7)": ("EXIT", "with status 7"),
        "os.abort()": ("CRASH", "ended by SIGABRT"),
        "os.kill(os.getpid(), signal.SIGSTOP)": ("TAMPERED", "its process was stopped"),
    }
    for end, (code, words) in ends.items():
        path.write_text(f"import os, signal\n{end}\ndef layer_norm():\n    pass\n")
        with pytest.raises(Refused, match=words) as refused:
            Sandbox(order(path))
        assert refused.value.code == code


@pytest.mark.parametrize("what", [signal.SIGSTOP, signal.SIGKILL])
def test_rival_that_is_stopped_or_ended_is_held_against_the_kernel(what):
    ours = ["melfront.benchmarks.kernel.timing.fair", "contestants", ["layer_norm", "cpu"]]
    with Sandbox({"threads": 1, "device": "cpu", "ours": ours}) as rival:
        os.kill(rival.pid, what)
        if what == signal.SIGSTOP:
            with contextlib.suppress(OSError):  # its keeper has ended it already
                while processes.stat_fields(rival.pid)[0] not in "TZX":
                    time.sleep(0.001)
                os.kill(rival.pid, signal.SIGCONT)
        time.sleep(0.1)
        with pytest.raises(Refused, match="a process that it is compared with was") as refused:
            rival.ask("inspect")
    assert refused.value.code == "TAMPERED"


def test_what_a_kernel_prints_is_marked(capfd, tmp_path):
    path = tmp_path / "prints.py"
    path.write_text("print('PASS\\r\\033[K')\ndef layer_norm(x):\n    pass\n")
    with Sandbox(order(path), prints=True):
        pass
    printed = capfd.readouterr()
    assert printed.err == "  | PASS\\r\\x1b[K\n"
    assert not printed.out


def test_report_says_that_a_kernel_is_not_isolated():
    outcome = run.Outcome(run.find("gelu"), "kernel.py", QUICK, not_isolated="unshare: no")
    assert "not isolated: this system gives a kernel no namespaces (unshare: no)" in report.text(
        outcome
    )
    assert "isolated" not in report.text(replace(outcome, not_isolated=""))


# --- kernels --------------------------------------------------------------------------------------


def test_kernel_that_reads_the_harness(isolated, one_case, monkeypatch, tmp_path):
    """It finds the question, where nothing keeps it out, and no answer before it has given one."""
    monkeypatch.setattr(run, "compete", lambda *_: None)
    # Contents that no test before it had, whose answers may still lie about here.
    options = replace(QUICK, seed=1000 + isolated)
    outcome = judge_file(copied("reads_the_parent", tmp_path), "layer_norm", options)
    assert outcome.good, outcome.text
    found = (tmp_path / "found").read_text().splitlines()
    assert found == ["FileNotFoundError" if isolated else "the question"] * 2


@pytest.mark.slow
def test_kernel_that_reads_its_rivals(isolated, one_case, tmp_path):
    """Without namespaces it finds them as root; there is no answer in their memory to copy."""
    outcome = judge_file(copied("reads_a_rival", tmp_path), "layer_norm", QUICK)
    log = (tmp_path / "log").read_text()
    assert "copied" not in log
    if isolated:
        assert "0 rivals" in log
        assert not set(log.replace("0 rivals", "")) & set("123456789")
    elif os.getuid() == 0:
        assert "2 rivals" in log
    assert no_gain(outcome)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slows_the_rivals", "stops_the_rivals"])
def test_kernel_that_hinders_its_rivals(name, isolated, one_case):
    words = {"slows": "rivals' priority", "stops": "compared with was stopped from outside"}
    outcome = judge_file(str(KERNELS / f"{name}.py"), "layer_norm", QUICK)
    if isolated:  # it finds none
        assert no_gain(outcome)
        assert outcome.code != "TAMPERED"
    else:
        assert outcome.code == "TAMPERED", f"{outcome.code}: {outcome.text}"
        assert words[name.partition("_")[0]] in outcome.text


FAKED = """
import sys
from melfront.benchmarks.__main__ import main
from melfront.benchmarks.kernel.sandbox import process
process.ISOLATE = sys.argv[1] == "True"
sys.exit(main(["kernel", "layer_norm", sys.argv[2], "--no-whole", "--seconds", "0.2"]))
"""


@pytest.mark.slow
def test_faked_verdict(isolated, tmp_path):
    """Isolated, it reaches no terminal; otherwise the exit status says that it was no verdict."""
    path = copied("fakes_a_verdict", tmp_path)
    ours, theirs = pty.openpty()
    (tmp_path / "terminal").write_text(os.ttyname(theirs))
    words = [sys.executable, "-c", FAKED, str(isolated), path]
    started = subprocess.Popen(words, cwd=CHECKOUT, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = all_shown(ours)
    if isolated:
        assert started.wait() == 0, shown
        assert b"99x" not in shown
    else:
        assert started.wait() == -signal.SIGKILL
        assert b"99x" in shown
