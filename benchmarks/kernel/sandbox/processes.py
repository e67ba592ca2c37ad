"""The process that children are forked from, and what can be seen of a process from outside."""

from __future__ import annotations

import array
import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).resolve().parents[3])

# As `python -m benchmarks.kernel.sandbox.worker`, from any folder, however we were found. The path
# stays as it is: ROOT may be site-packages, and what lies there must not come before Python's own.
START = """
import importlib.machinery, importlib.util, runpy, sys
spec = importlib.machinery.PathFinder.find_spec("benchmarks", [sys.argv[2]])
sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["benchmarks"])
runpy.run_module("benchmarks.kernel.sandbox.worker", run_name="__main__", alter_sys=True)
"""

# Idle workers go to sleep within some 50 us, or they would run in the next contestant's turn.
SLEEP = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0", "OPENBLAS_THREAD_TIMEOUT": "16"}

ENVIRONMENT = {
    # Memory that is freed stays in the process: nobody is timed while the system clears pages.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    **SLEEP,
    "PYTHONDONTWRITEBYTECODE": "1",
}


def processor_time(pid: int) -> float:
    """Seconds of processor time that a process with all its threads has used; NaN if unknown."""
    if not sys.platform.startswith("linux"):
        return float("nan")
    try:
        # The clock of another process, as clock_getcpuclockid(3) makes it.
        return time.clock_gettime_ns((~pid << 3) | 2) / 1e9
    except OSError:
        return float("nan")


def helpers_time(pid: int) -> float:
    """Seconds of processor time of the processes it has started and seen end; NaN if unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return float("nan")


def descendants(pid: int) -> list[int]:
    """Processes that a child has started and that still live; none where there is no /proc.

    Those of its session, their children and theirs, and orphans, which become the nursery's.
    """
    parents, session = {}, {}
    for name in os.listdir("/proc") if Path("/proc/self/stat").exists() else []:
        if name.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    parents[int(name)], session[int(name)] = int(fields[1]), int(fields[3])
    nurse = _nursery[0].process.pid if _nursery else 0
    found = {
        p
        for p in parents
        if session[p] == pid or parents[p] == pid or (parents[p] == nurse and p not in children)
    }
    while more := {p for p in parents if parents[p] in found} - found:
        found |= more
    return sorted(found - {pid})


class Nursery:
    """The process that children are forked from: NumPy and torch are imported once."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.link = ours
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(theirs.fileno()), ROOT],
            pass_fds=[theirs.fileno()],
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,  # Ctrl-C is for us, who then end the children one by one
        )
        theirs.close()
        self.buffer = b""
        self.ready = False
        atexit.register(self.close)

    def answer(self) -> Any:
        while b"\n" not in self.buffer:
            data = self.link.recv(4096)
            if not data:
                raise RuntimeError("the process that starts the kernels has died")
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line if line == b"ready" else json.loads(line)

    def fork(self, order: dict[str, Any], fds: list[int]) -> int:
        if not self.ready:
            self.answer()
            self.ready = True
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        self.link.sendmsg([json.dumps(order).encode()], rights)
        return int(self.answer())

    def wait(self, pid: int) -> int:
        """Exit status of a child that has ended or is about to; negative: the signal."""
        self.link.sendall(json.dumps({"wait": pid}).encode())
        return int(self.answer())

    def close(self) -> None:
        self.link.close()
        self.process.kill()
        self.process.wait()


_nursery: list[Nursery] = []
children: set[int] = set()  # that are meant to be there


def nursery() -> Nursery:
    """The one nursery of this program; starts it if need be, without waiting for it."""
    if not _nursery or _nursery[0].process.poll() is not None:
        _nursery[:] = [Nursery()]
    return _nursery[0]
