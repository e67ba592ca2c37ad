"""Our side of a worker: starts it, shares memory with it, and holds the clock.

A `Sandbox` is a process with one candidate in it (or with our own functions, for its rivals). The
parent lays a case out in memory that both see. Before each call it writes new contents and poisons
the place of the result; then it says go, and takes the time until the worker says that it has
returned. No candidate can lie about what is watched from outside: the processor time of its
process, and its threads and children in /proc.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import select
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..reasons import Refused
from ..slots.inputs import Case, extent, flat
from .memory import POISON
from .processes import ROOT, descendants, fork_server, processor_time, stat_fields, workers

ARENA = 4 << 30  # bytes of address space; only what is touched costs memory
ALIGN = 4096  # every argument starts on a page of its own
COMPILE_LIMIT = 300.0  # seconds of a call in which a compiler may be at work
MEMORY = Path("/dev/shm")  # where the shared memory is, on a system that has it
MOST_CHECKED = 8  # of the copies' results: a third of them, and no more


class Call(NamedTuple):
    """One call, as the parent saw it; times in seconds.

    Where one order calls several copies of a case, a time is that of all divided by their number.
    """

    time: float  # from "go" to "I have returned"
    lag: float  # from there until its main thread sleeps; NaN, like the next two, if unknown
    copying: float  # processor time of copying the result into shared memory
    dense: bool  # the result was contiguous, which makes it quick to copy
    working: float  # processor time from "go" until it slept
    event: float | None  # by the GPU's own events, of its default stream


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def as_integers(tensor: Tensor) -> Tensor:
    """The bits of a tensor, as integers of the same size."""
    integer: torch.dtype = getattr(torch, f"int{8 * tensor.element_size()}")
    return tensor.view(integer)


class Sandbox:
    """A process with one candidate in it. Close it, or use it in a `with`."""

    look = True  # whether the next call's results are wanted: the worker is not told

    def __init__(self, order: dict[str, Any], limit: float = 20.0, prints: bool = False) -> None:
        """order: what `Worker.load` takes; limit: seconds that anything may take."""
        self.limit, self.device, self.threads = limit, order["device"], order["threads"]
        commands, self.commands = os.pipe()
        self.replies, replies = os.pipe()
        with tempfile.TemporaryFile(dir=MEMORY if MEMORY.is_dir() else None) as file:
            os.ftruncate(file.fileno(), ARENA)
            self.arena = mmap.mmap(file.fileno(), ARENA)
            self.pid = fork_server().fork(
                {"size": ARENA, "prints": prints}, [commands, replies, file.fileno()]
            )
        workers.add(self.pid)
        os.close(commands)
        os.close(replies)
        self.poll = select.poll()
        self.poll.register(self.replies, select.POLLIN)
        self.buffer = b""
        self.to_compile = False  # whether the next call may have to
        self.idle_from = float("nan")  # processor time when it last had nothing to do
        # Processor seconds that it used when it had nothing to do, by what came next.
        self.overtime: dict[str, list[float]] = {}
        try:
            self.loaded = self.ask("load", max(limit, 60), root=ROOT, **order)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
            answer = json.loads(self.line(start, limit))
            assert isinstance(answer, dict)
        except (ValueError, AssertionError):
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
        self.idle_from = processor_time(self.pid)

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
            self.overtime.setdefault(order, []).append(used)
        return used

    # --- cases ----------------------------------------------------------------------------------

    def case(
        self,
        case: Case,
        outs: list[Tensor],
        function: str = "",
        bind: str = "",
        hold: int = 0,
        copies: int = 1,
    ) -> None:
        """Lay out arguments like these, and results like these outs, which are contiguous.

        bind: the signature to try first; hold: how many results before the last one stay in use;
        copies: how often, at other addresses; a device calls all of them in one order.
        """
        self.used = 0  # bytes of the arena
        self.given: list[list[Tensor]] = [[] for _ in range(copies)]  # flat, the tensors of each
        args = [
            [self.place(a, given) if isinstance(a, Tensor) else {"value": a} for a in case.args]
            for given in self.given
        ]
        self.outs: list[list[dict[str, Any]]] = []
        self.results: list[list[Tensor]] = []  # of as many copies as are checked at a time
        for _ in range(min(MOST_CHECKED, math.ceil(copies / 3))):
            new: list[Tensor] = []
            self.outs.append([self.place(out, new) for out in outs])
            self.results.append([to.view(out.shape) for to, out in zip(new, outs, strict=True)])
        self.laid: dict[str, Any] = {
            "args": args,
            "kwargs": case.kwargs,
            "outs": self.outs,
            "function": function,
            "bind": bind,
            "hold": hold,
        }
        # For new shapes torch.compile, numba, JAX and others compile in the first call.
        self.to_compile = self.ask("case", **self.laid)["compiles"]

    def use(self, function: str) -> None:
        """The same case for another of the functions that this worker has."""
        if function != self.laid["function"]:
            outs = [[]] if function == "nothing" else self.outs
            self.laid = {**self.laid, "function": function, "outs": outs, "bind": ""}
            self.ask("case", **self.laid)

    def place(self, tensor: Tensor, places: list[Tensor]) -> dict[str, Any]:
        """Make room for a tensor in the shared memory, flat; what the worker is told of it."""
        count, start = extent(tensor), self.used
        self.used += -(-count * tensor.element_size() // ALIGN) * ALIGN
        places.append(torch.frombuffer(self.arena, dtype=tensor.dtype, count=count, offset=start))
        return {
            "dtype": name_of(tensor.dtype),
            "shape": list(tensor.shape),
            "strides": list(tensor.stride()),
            "span": count,
            "offset": start,
        }

    def write(self, *contents: Case) -> None:
        """New contents for each copy at the old addresses, and poison where results go."""
        self.ask("poison")
        for given, content in zip(self.given, contents, strict=True):
            for place, tensor in zip(given, content.tensors(), strict=True):
                place.copy_(flat(tensor))
        for results in self.results:
            for result in results:
                as_integers(result).fill_(POISON[name_of(result.dtype)])
        if self.device != "cpu":
            self.ask("to_device")

    def check_untouched(self, content: Case, copy: int = 0) -> None:
        """Refuse a kernel if the arguments do not hold, to the bit, what was written.

        A device's are copied back when `call` is to look at this copy.
        """
        for place, tensor in zip(self.given[copy], content.tensors(), strict=True):
            if not torch.equal(as_integers(place), as_integers(flat(tensor))):
                raise Refused("MUTATED", "changes what it is given")

    def settle(self) -> tuple[float, int]:
        """Seconds until its device has no more work, and bytes that are free there."""
        start = time.perf_counter()
        free = self.ask("settle")["free"]
        return time.perf_counter() - start, free

    def call(self, look_at: Sequence[int] = (0,)) -> Call:
        """One call with what has been written. Raises Refused if it does not end well.

        look_at: copies whose results, then in `self.seen`, and arguments to copy back.
        """
        self.check_quiet("G")
        limit = max(self.limit, COMPILE_LIMIT) if self.to_compile else self.limit
        self.to_compile, began = False, time.perf_counter()
        worked = processor_time(self.pid)
        start = time.perf_counter_ns()
        self.send(b"G")
        first = self.line(began, limit)
        returned = time.perf_counter_ns()
        if first != b"r":
            raise self.forged()
        lag = self.asleep()
        done = processor_time(self.pid)
        self.send(json.dumps(list(look_at)).encode())
        answer = self.receive(began, limit)
        results = dict(zip(look_at, self.results, strict=False)) if self.look else {}
        self.seen = {n: [result.clone() for result in made] for n, made in results.items()}
        self.rest()
        event, copies = answer.get("event_ms"), len(self.given)
        return Call(
            (returned - start) / 1e9 / copies,
            lag,
            self.idle_from - done,
            bool(answer.get("dense")),
            (done - worked) / copies,
            event / 1e3 / copies if event is not None else None,
        )

    @property
    def copied(self) -> list[Tensor]:
        """The results of the first copy; on a CPU it is the only one."""
        return self.seen[0]

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
        workers.discard(pid)
        return fork_server().wait(pid)
