"""Our side of the fork server, and what can be seen of a process from outside.

Imports the standard library alone, so that the command line can start the server at once.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).resolve().parents[3])

# Runs `python -m benchmarks.kernel.worker.fork_server` from any folder, however this package was
# found. The path stays as it is: ROOT may be site-packages, which must not come before Python's own
# modules.
START = """
import importlib.machinery, importlib.util, os, runpy, sys
here = [sys.argv[2], os.path.dirname(sys.argv[2])]
spec = importlib.machinery.PathFinder.find_spec("melfront", here)
sys.modules["melfront"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["melfront"])
name = "melfront.benchmarks.kernel.worker.fork_server"
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""

# Idle worker threads go to sleep within some 50 us, or they would run in the next turn.
SLEEP = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0", "OPENBLAS_THREAD_TIMEOUT": "16"}

ENVIRONMENT = {
    # Freed memory stays in the process, so that no call is timed while the system clears pages.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    **SLEEP,
    "PYTHONDONTWRITEBYTECODE": "1",
}


def processor_time(pid: int) -> float:
    """Seconds of processor time that a process with all its threads has used; NaN if unknown.

    In nanoseconds, where /proc (and so psutil) counts in steps of 10 ms.
    """
    if not sys.platform.startswith("linux"):
        return float("nan")
    try:
        # The clock of another process, as clock_getcpuclockid(3) makes it.
        return time.clock_gettime_ns((~pid << 3) | 2) / 1e9
    except OSError:
        return float("nan")


def stat_fields(pid: int | str) -> list[str]:
    """What /proc/PID/stat has after the process's name: its state, parent, ... Raises OSError."""
    # Not by pathlib, which takes four times as long: every process is asked in every round.
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    try:
        return os.read(fd, 4096).decode(errors="replace").rpartition(")")[2].split()
    finally:
        os.close(fd)


def helpers_time(pid: int) -> float:
    """Seconds of processor time of the processes it has started and seen end; NaN if unknown."""
    try:
        fields = stat_fields(pid)
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return float("nan")


def parents() -> dict[int, int]:
    """Processes that live -> their parents; none without /proc."""
    found = {}
    for name in os.listdir("/proc") if Path("/proc/self/stat").exists() else []:
        if name.isdigit():
            with contextlib.suppress(OSError):
                fields = stat_fields(name)
                if fields[0] != "Z":
                    found[int(name)] = int(fields[1])
    return found


def below(above: set[int], parents: dict[int, int]) -> set[int]:
    """The children of these processes, theirs, and so on."""
    found: set[int] = set()
    while more := {p for p, q in parents.items() if q in above | found} - found:
        found |= more
    return found


def descendants(pid: int) -> list[int]:
    """Processes that a worker has started and that still live; none without /proc.

    Orphans among them have been adopted by its keeper, or by the first process of its namespace.
    """
    known, ours = parents(), {pid, *workers.get(pid, ())}
    server = _server[0].process.pid if _server else 0
    keepers = {keeper for keeper, *_ in workers.values()}
    # Whoever ends its keeper leaves its orphans to the fork server.
    left = {p for p, q in known.items() if q == server} - keepers
    return sorted((left | below(ours | left, known)) - ours)


class ForkServer:
    """The process that workers are forked from, run as `fork_server.py`."""

    def __init__(self) -> None:
        self.link, theirs = socket.socketpair()
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed in `close`
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(theirs.fileno()), ROOT],
            pass_fds=[theirs.fileno()],
            env={**os.environ, **ENVIRONMENT},
            # Ctrl-C reaches us alone, and we end the workers one by one. So does the terminal.
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
        )
        theirs.close()
        self.answers = self.link.makefile("rb")
        atexit.register(self.close)

    def answer(self) -> Any:
        """Its next answer. Raises RuntimeError, with what it said last, if it has died."""
        line = self.answers.readline()
        if not line:
            self.errors.seek(0)
            *_, last = [b"", *self.errors.read().splitlines()]
            why = last.decode(errors="replace")
            raise RuntimeError(f"the process that starts the kernels has died: {why}")
        return json.loads(line)

    def fork(self, order: Mapping[str, object], fds: list[int]) -> tuple[int, str]:
        """A new worker that gets these descriptors: its process id, and why it is not isolated."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        self.link.sendmsg([json.dumps(order).encode()], rights)
        answer = self.answer()
        pid, *others = answer["pids"]
        workers[pid] = [other for other in others if other]
        return pid, answer["not_isolated"]

    def wait(self, pid: int) -> int:
        """Exit status of a worker that has ended or is about to; negative: the signal."""
        keeper = workers.pop(pid)[0]
        with contextlib.suppress(ProcessLookupError):
            os.kill(keeper, signal.SIGCONT)  # should somebody have stopped it
        self.link.sendall(json.dumps({"wait": keeper}).encode())
        status: int = self.answer()
        return status

    def close(self) -> None:
        self.link.close()
        self.process.kill()
        self.process.wait()
        self.errors.close()


_server: list[ForkServer] = []
# Process ids of workers that have not been ended yet -> those of its keeper and, where it has
# namespaces of its own, of the first process there.
workers: dict[int, list[int]] = {}


def fork_server() -> ForkServer:
    """This program's one fork server; starts it if needed, without waiting for it."""
    if not _server or _server[0].process.poll() is not None:
        _server[:] = [ForkServer()]
    return _server[0]
