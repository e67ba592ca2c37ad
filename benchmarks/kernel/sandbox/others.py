"""Processes of this machine that are not ours: does one of them work for a kernel?

A kernel can reach a server that was started before it, by a file or a socket with a name. It is not
among the processes that we and a kernel have started, but the system counts its processor time too.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from melfront.command import one_line

from ..reasons import Refused
from . import processes

STALE = 0.3  # seconds after which the list of processes is made anew, which takes milliseconds
KERNEL_THREADS = 2  # the process id of their parent
LITTLE = 1e-4  # seconds a turn, as honest load may happen to fall into them
SHARE = 0.05  # of a turn that nothing interrupts: a ratio that close to 1 is no difference
MUCH, MOST_NAMED = 0.3, 3  # cores; processes


class Turn(NamedTuple):
    """How long a contestant's turn took, and the processor time that others used, by process."""

    seconds: float
    used: dict[int, float]

    def rate(self, pid: int) -> float:
        return self.used.get(pid, 0.0) / self.seconds


class Others:
    """The processes that we have not started, watched while contestants have their turns."""

    def __init__(self) -> None:
        self.watched: list[int] = []
        self.looked = float("-inf")
        # By what was done - "write" or "call" - and by contestant; the candidate's name is "".
        self.turns: dict[str, dict[str, list[Turn]]] = {}

    def look(self) -> None:
        """Find the processes to watch."""
        known, ours = processes.parents(), {os.getpid(), processes.fork_server().process.pid}
        ours |= processes.below(ours - {os.getpid()}, known)
        system = {KERNEL_THREADS, *processes.below({KERNEL_THREADS}, known)}
        self.watched = sorted(set(known) - ours - system)
        self.looked = time.perf_counter()

    def spent(self) -> dict[int, float]:
        return {pid: processes.processor_time(pid) for pid in self.watched}

    @contextlib.contextmanager
    def turn(self, who: str, what: str) -> Iterator[None]:
        """Note what others use while its arguments are written, or while it is called."""
        if time.perf_counter() - self.looked > STALE:
            self.look()
        before, start = self.spent(), time.perf_counter()
        yield
        seconds, after = time.perf_counter() - start, self.spent()
        used = {pid: t - before[pid] for pid, t in after.items() if t > before[pid]}  # no NaN
        self.turns.setdefault(what, {}).setdefault(who, []).append(Turn(seconds, used))

    def check(self) -> None:
        """Refuse a kernel for which another process works. Raises Refused."""
        for turns in self.turns.values():
            if found := helper(turns):
                pid, mine, theirs = found
                raise Refused(
                    "HELPED",
                    f"in its turn {name(pid)}, which it has not started, works {1e3 * mine:.2f} ms "
                    f"a call, and in as much time of its rivals' turns {1e3 * theirs:.2f} ms",
                )

    def said(self) -> str:
        """Who else was at work all the time, in words; it may be the kernel's helper."""
        busy = sorted(at_work(self.turns["call"]).items(), key=lambda item: -item[1])[:MOST_NAMED]
        return ", ".join(f"{name(pid)} kept {n:.1f} cores at work" for pid, n in busy if n > MUCH)


def helper(turns: dict[str, list[Turn]]) -> tuple[int, float, float] | None:
    """A process that works in the candidate's turns, and more than by chance not in the others'.

    And the processor time that it used in a turn, and would have by what it did in the others'.
    On a busy machine the two are alike: what is less than twice as much is other load, and no more
    can be said. The candidate's median is held against the high end of the others': whoever helps
    in less than half of the turns does not change the median of the times.
    A mean is taken too, for what works seldom: hardly a short turn has it, and every long one.
    """
    mine = turns.get("", [])
    others = [turn for who, made in turns.items() if who for turn in made]
    if len(mine) < 2 or len(others) < 2:
        return None
    lengths = [turn.seconds for turn in mine]
    length, short = statistics.median(lengths), statistics.quantiles(lengths, n=5)[0]
    for pid in sorted({pid for turn in mine for pid in turn.used}):
        used = statistics.median(turn.used.get(pid, 0.0) for turn in mine)
        high = statistics.quantiles([turn.rate(pid) for turn in others], n=10)[-1]
        mean = sum(turn.used.get(pid, 0.0) for turn in others) / sum(
            turn.seconds for turn in others
        )
        usual = max(high, mean) * length
        if used > 2 * usual + max(LITTLE, SHARE * short):
            return pid, used, usual
    return None


def at_work(turns: dict[str, list[Turn]]) -> dict[int, float]:
    """How many cores each process keeps at work in the middle of the candidate's turns."""
    mine = turns.get("", [])
    pids = sorted({pid for turn in mine for pid in turn.used})
    return {pid: statistics.median(turn.rate(pid) for turn in mine) for pid in pids}


def name(pid: int) -> str:
    """A process in words, if it still lives."""
    said = "a process"
    with contextlib.suppress(OSError):
        said = one_line(Path(f"/proc/{pid}/comm").read_text(errors="replace"))
    return f"{said} (pid {pid})"
