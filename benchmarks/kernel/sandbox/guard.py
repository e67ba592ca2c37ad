"""The defences against a kernel that cheats. To understand the harness, skip them.

They rely on what a kernel cannot lie about: the processor time, threads and processes that the
system counts for its process, and our own clock. `caches.py` has one more, against a kernel that
keeps its answers, and `worker/watched.py` those in the kernel's own process.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..reasons import Refused
from .parent import as_integers
from .processes import descendants, helpers_time

if TYPE_CHECKING:
    from torch import Tensor

    from ..slots.inputs import Case
    from ..timing.times import Race
    from .parent import Sandbox

# n threads cannot use more processor time than n times what the call takes. But a thread may still
# be going to sleep when it has handed its result to another, as XLA's do. 4 % faster is no
# difference that counts.
MORE = 1.04
# Seconds of processor time that a process may use between two calls: once the contents are written
# (AHEAD, or a share of the call), and before that (IDLE). A fifth of the rounds may have more. An
# honest process sleeps, and uses none.
AHEAD, MORE_AHEAD, IDLE = 2e-5, 0.02, 1e-4


def inspect(child: Sandbox) -> list[str]:
    """Refuse a kernel that has replaced a function or imported one of our packages.

    Returns which settings of the process it has changed; they have been set back.
    """
    seen = child.ask("inspect")
    if seen["ours"]:
        names = ", ".join(seen["ours"][:3])
        text = f"imports {names}, which it is compared with; write it out, or call torch"
        raise Refused("REFERENCE", text)
    if seen["tampered"]:
        raise Refused("TAMPERED", f"replaces {', '.join(seen['tampered'][:4])}")
    switches: list[str] = seen["switches"]
    return switches


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


def kept(child: Sandbox, back: int = 0, first: list[Tensor] | None = None) -> None:
    """Refuse a kernel that has changed a result since it was copied.

    back: of which call, 0 is the last; first: what was copied then, of the first copy of the case.
    """
    for place in (place for results in child.results for place in results):
        as_integers(place).zero_()
    child.ask("again", back=back)
    copied = [first] if first else child.seen.values()
    pairs = zip(copied, child.results, strict=False)
    both = ((a, b) for was, now in pairs for a, b in zip(was, now, strict=True))
    if not all(torch.equal(as_integers(a), as_integers(b)) for a, b in both):
        raise Refused("ALIAS", "changes a result after it has returned it")


def alone(child: Sandbox, tasks: set[int]) -> None:
    """Refuse a kernel that has started threads or processes since it was proved."""
    if new := child.left(tasks):
        raise Refused("THREAD", f"starts {len(new)} thread(s) once it is timed", certain=True)
    if left := descendants(child.pid):
        raise Refused("PROCESS", f"starts {len(left)} process(es) once it is timed")


def no_more_threads(child: Sandbox, proved: int, reference: Sandbox) -> None:
    """Refuse threads that a kernel has in its place only.

    proved: how many its process had in the proof; reference: a process that runs the same without
    the kernel.
    """
    new = len(child.tasks()) - (proved + len(reference.tasks()) - reference.at_first)
    if proved and new > 0:
        text = f"starts {new} thread(s) once it is in the encoder"
        raise Refused("THREAD", text, certain=True)


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


def share(pid: int) -> tuple[str, ...]:
    """What else decides how much of the processors a process gets: its groups, and their weight."""
    texts = []
    for name in ("autogroup", "cgroup"):
        with contextlib.suppress(OSError):
            texts.append(Path(f"/proc/{pid}/{name}").read_text().strip().rpartition(" nice ")[2])
    return tuple(texts)


def same_chances(candidate: Sandbox, others: list[Sandbox]) -> None:
    """Refuse a kernel that has changed its own or its rivals' priority, scheduler or processors."""
    if not hasattr(os, "sched_getaffinity"):
        return
    mine = chances(0)
    for child in (candidate, *others):
        theirs = chances(child.pid)
        whose = "its own" if child is candidate else "its rivals'"
        if theirs != mine and (child is not candidate or theirs[0] < mine[0] or theirs[2]):
            raise Refused("TAMPERED", f"changes {whose} priority or processors")
        if share(child.pid) != share(candidate.pid):
            raise Refused("TAMPERED", f"changes {whose} share of the processors")


def no_starving(race: Race) -> None:
    """Refuse a kernel that keeps its rivals from the processor, unless others may have done it."""
    if race.starved() and not race.busy:
        raise Refused("TAMPERED", "keeps its rivals from the processor, on a quiet machine")


def fair(race: Race, reference: str, twin: str) -> None:
    """Refuse cheating that the times of a race reveal; reference, twin: the honest contestants."""
    out_of_turn(race, reference)
    if race.settling:
        device_out_of_turn(race, twin)
    late(race, "lag", 2.0, (reference, twin))
    if race.dense:  # copying a result with gaps takes longer, which is already counted as time
        late(race, "copying", 1.2, (reference, twin))
    if race.most_cores > MORE * race.threads:  # False where it is unknown
        text = f"keeps {race.most_cores:.2f} cores at work, and {race.threads} were asked for"
        raise Refused("THREAD", text)
    on_stream, clock = race.by_events(), race.spread("")[0]  # high and low, as in `late`
    if clock > 2 * on_stream + 1e-4 / race.copies:  # False where there are no events
        raise Refused(
            "STREAM",
            f"its caller's stream is done after {1e3 * on_stream:.4f} ms a call, the device "
            f"after {1e3 * clock:.4f} ms: work on a stream of its own",
        )
    if race.too_fast(race.spread("")[1]):
        raise Refused(
            "ROOF",
            f"{1e6 * race.median(''):.1f} us, and this machine needs at least "
            f"{1e6 * race.least():.1f} us to move the bytes or to multiply",
        )


def out_of_turn(race: Race, reference: str) -> None:
    """Refuse more processor time between calls than honest rivals use there.

    Idle threads may look for work a little longer. But once the contents are written, a kernel that
    wakes works ahead.
    """
    call = race.copies * race.median("")
    for gap, mine in race.overtime[""].items():
        theirs = max(race.overtime[reference].get(gap, 0.0), 0.0)
        spare = max(AHEAD, MORE_AHEAD * call) if gap == "G" else max(IDLE, 0.05 * call)
        if mine > 2 * theirs + spare:
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
