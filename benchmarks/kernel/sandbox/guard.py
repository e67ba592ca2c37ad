"""The defences against a kernel that cheats. To understand the harness, skip them.

They rely on what a kernel cannot lie about: the processor time, threads and processes that the
system counts for its process, and our own clock. `caches.py` has one more, against a kernel that
keeps its answers, and `worker/watched.py` those in the kernel's own process.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import TYPE_CHECKING

from ..reasons import Refused
from .processes import descendants, helpers_time

if TYPE_CHECKING:
    from ..slots.inputs import Case
    from ..timing.times import Race
    from .parent import Sandbox

ALLOWANCE = 1.25  # how much faster than its roof a kernel may seem


def inspect(child: Sandbox) -> None:
    """Refuse a kernel that has replaced a function or imported one of our packages."""
    seen = child.ask("inspect")
    if seen["ours"]:
        names = ", ".join(seen["ours"][:3])
        text = f"imports {names}, which it is compared with; write it out, or call torch"
        raise Refused("REFERENCE", text)
    if seen["tampered"]:
        raise Refused("TAMPERED", f"replaces {', '.join(seen['tampered'][:4])}")


def no_work_after(child: Sandbox, tasks: set[int]) -> None:
    """Refuse a kernel that works on after a call has returned, or leaves new threads or processes.

    Workers that were there before the call may stay, such as those of OpenMP and numba from the
    second call on: they sleep.
    """
    left = child.left(tasks)
    used: list[float] = []
    patience = 0.01
    while len(used) < 3 and all(u > 0.25 * patience for u in used):  # three times: no accident
        child.rest()
        time.sleep(patience)
        used.append(child.check_quiet("wait"))
    child.rest()
    if all(u > 0.25 * patience for u in used):  # False where it is unknown
        spent = f"{1e3 * min(used):.1f} ms of processor time in the {1e3 * patience:.0f} ms after"
        raise Refused("THREAD", f"works on after it has returned: {spent}")
    if left:
        text = f"a call leaves {len(left)} thread(s) behind that were not there before it"
        raise Refused("THREAD", text)
    no_processes(child)


def no_processes(child: Sandbox) -> None:
    """Refuse a kernel that has started processes which still live."""
    if others := descendants(child.pid):
        raise Refused("PROCESS", f"leaves {len(others)} process(es) behind")


def unfinished(child: Sandbox, content: Case) -> Refused | None:
    """Call once more to see whether a thread was still at work on a wrong result; if so, say so."""
    try:
        child.write(content)
        tasks = child.tasks()
        child.call()
        no_work_after(child, tasks)
    except Refused as refused:
        return refused if refused.code in ("THREAD", "PROCESS") else None
    return None


def alone(child: Sandbox, tasks: set[int]) -> None:
    """Refuse a kernel that has started threads or processes since it was proved."""
    if new := child.left(tasks):
        raise Refused("THREAD", f"starts {len(new)} thread(s) once it is timed", certain=True)
    if left := descendants(child.pid):
        raise Refused("PROCESS", f"starts {len(left)} process(es) once it is timed")


def no_helpers(child: Sandbox, before: float) -> None:
    """Refuse work that was done by processes which ended: more `helpers_time` than before."""
    if helpers_time(child.pid) > before:
        raise Refused("PROCESS", "has other processes do work once it is timed")


def even(untimed: list[float], race: Race) -> None:
    """Refuse a kernel that takes much longer untimed, though it cannot know when it is timed."""
    least, most = min(untimed), race.spread("")[1]
    if least > 2 * most + 1e-3 / race.copies:  # the low end against the high one, as in `late`
        raise Refused(
            "UNEVEN",
            f"takes at least {1e3 * least:.1f} ms a call when it is not timed, "
            f"and {1e3 * most:.1f} ms when it is",
        )


def chances(pid: int) -> tuple[int, set[int], int]:
    """The priority, processors and scheduler of a process; 0 is our own."""
    priority = os.getpriority(os.PRIO_PROCESS, pid)
    return priority, os.sched_getaffinity(pid), os.sched_getscheduler(pid)


def same_chances(candidate: Sandbox, others: list[Sandbox]) -> None:
    """Refuse a kernel that has changed its own or its rivals' priority, scheduler or processors."""
    if not hasattr(os, "sched_getaffinity"):
        return
    mine = chances(0)
    for child in (candidate, *others):
        theirs = chances(child.pid)
        if theirs != mine and (child is not candidate or theirs[0] < mine[0] or theirs[2]):
            whose = "its own" if child is candidate else "its rivals'"
            raise Refused("TAMPERED", f"changes {whose} priority or processors")


def no_starving(race: Race, busy: str) -> None:
    """Refuse a kernel that keeps its rivals from the processor; busy: others may have done it."""
    if race.starved() and not busy:
        raise Refused("TAMPERED", "keeps its rivals from the processor, on a quiet machine")


def fair(race: Race, reference: str, twin: str) -> None:
    """Refuse cheating that the times of a race reveal; reference, twin: the honest contestants."""
    out_of_turn(race, reference)
    if race.settling:
        device_out_of_turn(race, twin)
    late(race, "lag", 2.0, (reference, twin))
    if race.dense:  # copying a result with gaps takes longer, which is already counted as time
        late(race, "copying", 1.2, (reference, twin))
    if race.cores.get("", 1.0) > 1.15 * race.threads + 0.1:
        text = f"keeps {race.cores['']:.1f} cores at work, and {race.threads} were asked for"
        raise Refused("THREAD", text)
    on_stream, clock = race.by_events(), race.spread("")[0]  # high and low, as in `late`
    if clock > 2 * on_stream + 1e-4 / race.copies:  # False where there are no events
        raise Refused(
            "STREAM",
            f"its caller's stream is done after {1e3 * on_stream:.4f} ms a call, the device "
            f"after {1e3 * clock:.4f} ms: work on a stream of its own",
        )
    least = race.least() / ALLOWANCE
    if race.spread("")[1] < least:  # False where there is no roof
        raise Refused(
            "ROOF",
            f"{1e6 * race.median(''):.1f} us, and this machine needs at least "
            f"{1e6 * least:.1f} us to move the bytes or to multiply",
        )


def out_of_turn(race: Race, reference: str) -> None:
    """Refuse more processor time between calls than honest rivals use there."""
    mine, theirs = race.overtime[""], race.overtime[reference]
    if mine > 2 * max(theirs, 0) + max(3e-4, 0.05 * race.copies * race.median("")):
        raise Refused(
            "THREAD",
            f"its process uses {1e3 * mine:.2f} ms of processor time between "
            f"two calls, when it is not its turn (the rivals' {1e3 * theirs:.2f} ms)",
        )


def device_out_of_turn(race: Race, twin: str) -> None:
    """Refuse a kernel whose device still works for it when a rival has had its turn.

    Whatever a call starts is waited for in its own time, so this was started between calls.
    """
    mine, theirs = (statistics.median(race.settling[who]) for who in ("", twin))
    if mine > 2 * theirs + 1e-3:
        raise Refused(
            "THREAD",
            f"its device works for {1e3 * mine:.2f} ms more when it is not its turn "
            f"(an idle one answers after {1e3 * theirs:.2f} ms)",
        )


def late(race: Race, what: str, slower: float, honest: tuple[str, str]) -> None:
    """Refuse work that goes on after the kernel has said that it returned.

    The low end is compared with the high one: on a busy machine we may hear of the answer late.
    """
    mine = race.spread("", what)[0]
    usual = max(race.spread(name, what)[1] for name in honest)
    if mine > slower * usual + 1e-4:  # False where it is unknown
        raise Refused(
            "LATE",
            f"its process works {1e3 * mine:.2f} ms after it has said that it returned, where "
            f"others take {1e3 * usual:.2f} ms to copy the result",
        )
