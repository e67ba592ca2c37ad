"""One file from its loading to its verdict."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from parity import measure

from .proof import cases
from .proof import diagnose as naming
from .proof import verdict as judge
from .proof.cases import Case, Dice
from .proof.verdict import Finding
from .reasons import UNUSABLE
from .sandbox.parent import Child, Refused
from .sandbox.processes import descendants
from .slots.base import SLOTS, Slot
from .slots.edges import edges
from .timing import fair as timing
from .timing import roof as machine
from .timing import whole

RESTARTS = 3  # of a kernel that dies, so that the other cases are seen too
WHOLE_BLOCKS = 4  # of a size without trained weights: enough to see an error grow
INTERPRETED_LIMIT = 300.0  # seconds a call: Triton's interpreter takes milliseconds per program
CHANCE = ("LATE", "ROOF", "THREAD")  # what a busy machine may bring about by itself
CUT = 40  # steps of time that the interpreter is given of a captured case


@dataclass(frozen=True)
class Options:
    """What a run was asked for."""

    size: str = "tiny"
    model: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1
    seed: int = 0
    seconds: float = 4.0  # of timing for each case, and for the whole
    limit: float = 20.0  # seconds that one call may take
    whole: bool = True
    depth: int | None = None
    prints: bool = False

    def common(self) -> dict[str, Any]:
        return {"threads": self.threads, "device": self.device}


@dataclass
class Outcome:
    """All that is known of a kernel at the end."""

    slot: Slot
    path: str
    options: Options
    verdict: str = measure.PASS
    code: str = ""
    text: str = ""
    findings: list[Finding] = field(default_factory=list)
    mistake: naming.Suspect | None = None
    races: dict[int, timing.Race] = field(default_factory=dict)  # by number of the finding
    whole: whole.Whole | None = None
    arrays: str = ""
    interpreted: bool = False
    warning: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return self.verdict in (measure.PASS, measure.NOISY)


def judge_file(
    path: str, slot_name: str, options: Options, say: Callable[[str], None] = lambda _line: None
) -> Outcome:
    """Prove a file's kernel and, if it is right, time it.

    `say` is called with a line now and then. Raises Refused, with a code of `reasons.UNUSABLE`,
    for a file that has no kernel for the slot in it; ValueError for a model that cannot be read.
    """
    start = time.perf_counter()
    slot = SLOTS[slot_name]
    outcome = Outcome(slot, path, options)
    dice = Dice(options.seed, getattr(torch, options.dtype))
    # Absolute: children are forked from a process that keeps the folder it was started in.
    file = os.path.abspath(path)
    order = {"path": file, "slot": slot.name, **options.common()}
    child = Child(order, options.limit, options.prints)
    try:
        outcome.arrays = child.loaded["arrays"]
        if outcome.arrays == "numpy" and (options.dtype == "bfloat16" or options.device != "cpu"):
            what = f"{options.dtype} on {options.device}"
            raise Refused(
                "SIGNATURE", f"asks for NumPy arrays, and NumPy has no {what}; take torch"
            )
        say("proving")
        if child.loaded["triton"]:
            outcome.interpreted = interpreted(child, slot, options, dice)
            child.close()
            child = started(order, outcome)
        child = prove(child, order, outcome, dice)
        if outcome.good:
            compete(child, outcome, dice, say)
    except Refused as refused:
        if refused.code in UNUSABLE:
            raise
        outcome.verdict, outcome.code, outcome.text = "INVALID", refused.code, refused.text
    finally:
        child.close()
    if not outcome.good:
        outcome.races.clear()  # no time of what is wrong
    outcome.seconds = time.perf_counter() - start
    return outcome


def started(order: dict[str, Any], outcome: Outcome) -> Child:
    """A new child with the kernel in it."""
    limit = INTERPRETED_LIMIT if outcome.interpreted else outcome.options.limit
    return Child(order, limit, outcome.options.prints)


def interpreted(child: Child, slot: Slot, options: Options, dice: Dice) -> bool:
    """Whether Triton's interpreter runs it. It may have another way to run on a CPU."""
    child.limit = INTERPRETED_LIMIT
    judge.prove_case(child, slot, next(iter(chosen_cases(slot, options, dice, True))), dice)
    return not child.pid or bool(child.ask({"do": "interpreted"})["ran"])


def chosen_cases(slot: Slot, options: Options, dice: Dice, interpreted: bool) -> Iterator[Case]:
    for case in cases.captured(slot.name, options.size, options.model, dice.dtype):
        yield cut(slot, case) if interpreted else case
    yield from edges(slot.name, dice)


def cut(slot: Slot, case: Case) -> Case:
    """The first steps of a captured case, for the interpreter."""
    axis = {
        "softmax": -2,
        "attention": -2,
        "stft": -2,
        "mel": -2,
        "conv1d_gelu": -1,
        "log_scale": -1,
        "log_mel": -1,
    }.get(slot.name, -2)
    steps = CUT * 160 if slot.name == "log_mel" else CUT
    given = 3 if slot.name == "attention" else 1
    args = tuple(
        a.narrow(axis, 0, min(steps, a.shape[axis])) if i < given else a
        for i, a in enumerate(case.args)
    )
    return replace(case, args=args)


def prove(child: Child, order: dict[str, Any], outcome: Outcome, dice: Dice) -> Child:
    """Every case; fills in the findings and the verdict, returns the child that is left."""
    slot, options = outcome.slot, outcome.options
    restarts = 0
    for case in chosen_cases(slot, options, dice, outcome.interpreted):
        finding = judge.prove_case(child, slot, case, dice)
        outcome.findings.append(finding)
        if finding.code in UNUSABLE:
            raise Refused(finding.code, finding.text)
        if not child.pid:
            restarts += 1
            if restarts > RESTARTS:
                break
            child = started(order, outcome)
    if child.pid:
        judge.inspected(child)
        left = descendants(child.pid)
        if left:
            raise Refused("PROCESS", f"leaves {len(left)} process(es) behind")
    bad = [f for f in outcome.findings if not f.good]
    if bad:
        outcome.verdict = "WRONG" if all(f.verdict == measure.WRONG for f in bad) else "INVALID"
        outcome.code, outcome.text = bad[0].code, f"{bad[0].case.label}: {bad[0].text}"
        name_it(outcome, bad)
    elif any(f.verdict == measure.NOISY for f in outcome.findings):
        outcome.verdict = measure.NOISY
    return child


def name_it(outcome: Outcome, bad: list[Finding]) -> None:
    """Say what the failures have in common."""
    unseen = [f for f in outcome.findings if not f.case.seen]
    if all(f.code in ("WRONG", "EXACT", "NOT_FINITE") for f in bad):
        outcome.mistake = naming.name(outcome.slot, outcome.findings)
    if outcome.mistake:
        outcome.code = outcome.mistake.code or outcome.code
    elif len(bad) > 1 and all(not f.good for f in unseen) and not any(f.case.seen for f in bad):
        outcome.code = "SHAPES"
        outcome.text = (
            f"right on the shapes that the encoder has, and on none of the "
            f"{len(unseen)} others ({bad[0].case.label}: {bad[0].text})"
        )


def compete(child: Child, outcome: Outcome, dice: Dice, say: Callable[[str], None]) -> None:
    """Time what has been proved, and run it in its place."""
    slot, options = outcome.slot, outcome.options
    timed = [i for i, f in enumerate(outcome.findings) if f.case.timed]
    first = outcome.findings[timed[0]].case
    # Not from the run's seed, which a kernel could read off the command line and work ahead.
    dice = Dice(secrets.randbits(62), dice.dtype)
    ours = {"ours": ["benchmarks.kernel.slots.base", "rivals", [slot.name]], **options.common()}
    watched = [child]
    load = machine.Load(watched)
    child.ask({"do": "perturb", "on": False})
    if not outcome.interpreted:
        untimed = judge.replayed(child, slot, first, dice)
        with Child(ours, options.limit) as rivals, Child(ours, options.limit) as twin:
            watched += [rivals, twin]
            load = machine.Load(watched)
            for i in timed:
                say(f"timing {outcome.findings[i].case.label} {outcome.findings[i].case.shape()}")
                case = outcome.findings[i].case
                race = raced(load, child, rivals, twin, slot, case, dice, options.seconds)
                outcome.races[i] = race
                if case is first:
                    even(untimed, race)
                machine.same_chances(child, [rivals, twin])
                if race.starved() and not load.warning():
                    raise Refused(
                        "TAMPERED", "keeps its rivals from the processor, on a quiet machine"
                    )
            judge.inspected(child)
            outcome.warning = load.warning() or unclear(outcome.races)
    if options.whole and not outcome.interpreted:
        say("running it in its place")
        in_place(outcome, dice)


def raced(load: machine.Load, candidate: Child, *others: Any) -> timing.Race:
    """`timing.race`. What others may have done on a busy machine is held against a kernel only if
    it comes twice, and then with a word on them."""
    try:
        return timing.race(candidate, *others)
    except Refused as refused:
        busy = load.warning()
        if refused.code not in CHANCE or refused.certain or not candidate.pid or not busy:
            raise
    try:
        return timing.race(candidate, *others)
    except Refused as refused:
        raise Refused(refused.code, f"{refused.text}; {busy}") from None


def unclear(races: dict[int, timing.Race]) -> str:
    """A line if a race says nothing, though nobody was seen to use the machine; else nothing."""
    reasons = [reason for race in races.values() if (reason := race.unclear())]
    return f"the machine is too busy: {reasons[0]}. Nothing is recorded" if reasons else ""


def even(untimed: list[float], race: timing.Race) -> None:
    """It may not take much longer when it is not timed; the child cannot know when it is."""
    least, most = min(untimed), race.spread("")[1]
    if least > 2 * most + 1e-3:  # the low end against the high one, as `timing.fair` has it
        raise Refused(
            "UNEVEN",
            f"takes at least {1e3 * least:.1f} ms a call when it is not timed, "
            f"and {1e3 * most:.1f} ms when it is",
        )


def in_place(outcome: Outcome, dice: Dice) -> None:
    slot, options = outcome.slot, outcome.options
    depth = options.depth or (None if options.model or options.size == "tiny" else WHOLE_BLOCKS)
    model = cases.model(options.size, options.model, dice.dtype, depth)
    arguments = [slot.name, options.size, options.model, depth, options.dtype, options.device]
    ours = {"ours": ["benchmarks.kernel.timing.whole", "functions", arguments], **options.common()}
    limit = max(options.limit, 120)
    what = (
        f"{'front end and ' if slot.front_end else ''}encoder, {options.model or options.size}, "
        f"{model.config.n_audio_layer} blocks"
    )
    filled = {**ours, "path": os.path.abspath(outcome.path), "slot": slot.name}
    with Child(filled, limit, options.prints) as candidate, Child(ours, limit) as reference:
        outcome.whole = whole.run_whole(
            candidate,
            reference,
            slot.name,
            model,
            dice,
            what,
            timed=outcome.verdict == measure.PASS,
            seconds=options.seconds,
        )
