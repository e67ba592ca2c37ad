"""A worker's process, as we see it: starts it, talks with it, watches it from outside, ends it.

No candidate can lie about what is watched from outside: the processor time of its process, and its
threads and children in /proc.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from ..reasons import Refused
from ..worker.memory import mapped
from ..worker.namespaces import STOPPED
from .processes import ROOT, descendants, fork_server, processor_time, stat_fields

ARENA = 4 << 30  # bytes of address space; only what is touched costs memory
ISOLATE = True  # whether workers get namespaces of their own, where the system allows it
MEMORY = Path("/dev/shm")  # where the shared memory is, on a system that has it


class Answer(dict[str, Any]):
    """What a worker answers."""

    def __missing__(self, key: str) -> Any:
        raise Refused("FORGED", f"answers in the harness's place, and not what was asked ({key})")


class Process:
    """A worker, and the memory that it shares with us. Close it."""

    printer: threading.Thread | None = None

    def __init__(self, order: dict[str, Any], limit: float = 20.0, prints: bool = False) -> None:
        """order: what `Worker.load` takes; limit: seconds that anything may take."""
        self.limit, self.device, self.threads = limit, order["device"], order["threads"]
        self.ours = "path" not in order  # no candidate is in it
        fork = {"size": ARENA, "prints": prints, "ours": self.ours, "isolate": ISOLATE}
        commands, self.commands = os.pipe()
        self.replies, replies = os.pipe()
        theirs = [commands, replies]
        if prints:
            shown, show = os.pipe()
            self.printer = threading.Thread(target=copy_lines, args=(shown,), daemon=True)
            self.printer.start()
            theirs.append(show)
        with tempfile.TemporaryFile(dir=MEMORY if MEMORY.is_dir() else None) as file:
            os.ftruncate(file.fileno(), ARENA)
            self.arena = mapped(torch, file.fileno(), ARENA)
            self.pid, self.not_isolated = fork_server().fork(fork, [file.fileno(), *theirs])
        for fd in theirs:
            os.close(fd)
        self.poll = select.poll()
        self.poll.register(self.replies, select.POLLIN)
        self.buffer = b""
        self.idle_from = float("nan")  # processor time when it last had nothing to do
        self.idle_since = time.perf_counter()
        # When it had nothing to do: processor seconds that it used, of so many, by what came next.
        self.overtime: dict[str, list[tuple[float, float]]] = {}
        try:
            self.loaded = self.ask("load", max(limit, 60), root=ROOT, **order)
            self.at_first = len(self.tasks())  # threads, before the first call
        except BaseException:
            self.close()
            raise

    # --- messages -------------------------------------------------------------------------------

    def line(self, start: float, limit: float) -> bytes:
        """The next line that it writes. Raises Refused if none comes within the limit."""
        while b"\n" not in self.buffer:
            left = start + limit - time.perf_counter()
            if left <= 0 or not self.poll.poll(left * 1000):
                self.close()
                raise Refused("HANG", f"was not done after {limit:g} s, and was ended")
            data = os.read(self.replies, 1 << 16)
            if not data:
                raise self.death()
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def death(self) -> Refused:
        """How it has ended."""
        status = self.close()
        if self.ours or status == STOPPED:  # none of ours ends by itself
            whose = "a process that it is compared with" if self.ours else "its process"
            did = "stopped" if status == STOPPED else "ended"
            return Refused("TAMPERED", f"{whose} was {did} from outside; none of ours does that")
        if status is None or status >= 0:
            return Refused("EXIT", f"left the process, with status {status}")
        name = signal.Signals(-status).name
        fault = " (segmentation fault)" if -status == signal.SIGSEGV else ""
        return Refused("CRASH", f"was ended by {name}{fault}")

    def forged(self, how: str = "writes to the harness's own pipe") -> Refused:
        self.close()
        return Refused("FORGED", how)

    def send(self, line: bytes) -> None:
        """Raises Refused if it has ended."""
        try:
            os.write(self.commands, line + b"\n")
        except BrokenPipeError:
            raise self.death() from None

    def receive(self, start: float, limit: float) -> dict[str, Any]:
        """Its answer. Raises Refused for a refusal, and for anything else that is not an answer."""
        try:
            answer = Answer(json.loads(self.line(start, limit)))
        except (ValueError, TypeError):
            raise self.forged() from None
        if "refused" in answer:
            raise Refused(answer["refused"], answer["text"])
        return answer

    def ask(self, do: str, limit: float | None = None, **order: Any) -> dict[str, Any]:
        """Have one of the worker's methods run, wait for its answer. Raises Refused."""
        line = json.dumps({"do": do, **order}).encode()
        self.check_quiet(do)
        self.send(line)
        answer = self.receive(time.perf_counter(), limit or self.limit)
        self.rest()
        return answer

    def rest(self) -> None:
        """Note its processor time: it has nothing to do from now on."""
        if self.buffer:
            raise self.forged("answers more than it is asked")
        self.asleep()
        self.idle_from, self.idle_since = processor_time(self.pid), time.perf_counter()

    def asleep(self, patience: float = 0.05) -> float:
        """Wait until its main thread sleeps; seconds that this took, NaN if it cannot be seen.

        The processor time of a process that runs is up to a tick old, of one that sleeps exact.
        """
        start = now = time.perf_counter()
        try:
            while now - start < patience:
                state = stat_fields(self.pid)[0]
                now = time.perf_counter()
                if state != "R":
                    break
        except OSError:
            return float("nan")
        return now - start

    def check_quiet(self, order: str) -> float:
        """Note the processor time used since, which should be none; seconds, NaN if unknown."""
        used = processor_time(self.pid) - self.idle_from
        if used == used:
            idle = time.perf_counter() - self.idle_since
            self.overtime.setdefault(order, []).append((used, idle))
        return used

    # --- from outside ---------------------------------------------------------------------------

    def tasks(self) -> set[int]:
        """Its threads; none where they cannot be seen."""
        try:
            return {int(name) for name in os.listdir(f"/proc/{self.pid}/task")}
        except OSError:
            return set()

    def left(self, tasks: set[int], patience: float = 0.05) -> set[int]:
        """Its threads other than those. One that has ended may take a moment to vanish."""
        end = time.perf_counter() + patience
        new = self.tasks() - tasks
        while new and time.perf_counter() < end:
            time.sleep(0.001)
            new &= self.tasks()
        return new

    def memory(self) -> int:
        """Bytes of private memory that it holds; 0 if unknown."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
        return 0

    def close(self) -> int | None:
        """End it and all that it has started; returns its exit status. Safe to repeat."""
        if not self.pid:
            return None
        pid, self.pid = self.pid, 0
        if self.poll.poll(0):
            time.sleep(0.05)  # it may be ending by itself: then its own status is wanted
        for other in [*descendants(pid), pid]:
            with contextlib.suppress(OSError):
                os.kill(other, signal.SIGKILL)
        os.close(self.commands)
        os.close(self.replies)
        status = fork_server().wait(pid)
        if self.printer:
            self.printer.join(1.0)  # all that could print has ended
        return status


def copy_lines(fd: int) -> None:
    """Copy what a kernel prints to our stderr, marked: it gets no descriptor of our terminal."""
    with open(fd, encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line.rstrip("\n"))
            print(f"  | {text}", file=sys.stderr)
