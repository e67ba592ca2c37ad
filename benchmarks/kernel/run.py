"""One file from its loading to its verdict."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from melfront.parity import noise as measure

from .outcome import Options, Outcome
from .proof import cases, diagnose, packed, verdict
from .proof.verdict import Finding
from .reasons import UNUSABLE, Refused
from .sandbox import caches, guard
from .sandbox.parent import Sandbox
from .slots import find
from .slots.base import Slot
from .slots.inputs import Case, Dice
from .slots.shapes import checked, declaration, fits
from .timing import fair, whole
from .timing.busy import Load
from .timing.times import REFERENCE, Race
from .worker.device import torch_name

RESTARTS = 3  # of a kernel that dies, so that the other cases are seen too
WHOLE_BLOCKS = 4  # of a size without trained weights: enough to see an error grow
INTERPRETED_LIMIT = 300.0  # seconds a call: Triton's interpreter takes milliseconds per program
# What other processes may bring about.
CHANCE = ("HELPED", "LATE", "ROOF", "STREAM", "THREAD")
# Rounds of a second race. What happens to twelve calls of a kernel, and to none of its rivals', is
# no chance.
ENOUGH = 15
CUT = 40  # steps of time that the interpreter is given of a captured case
REPLAYED = 8  # pairs of new and repeated contents


def judge_file(
    path: str, slot_name: str, options: Options, say: Callable[[str], None] = lambda _line: None
) -> Outcome:
    """Prove a file's kernel and, if it is right, time it.

    `say` is called with a line now and then, and with none at the end. Raises Refused, with a code
    of `reasons.UNUSABLE`, for a file without a kernel for the slot; ValueError for a model that
    cannot be read.
    """
    start = time.perf_counter()
    outcome = Outcome(find(slot_name), path, options, sha256=sha256(path))
    dice = Dice(options.seed, getattr(torch, options.dtype))
    child = started(outcome)

    def tell(line: str) -> None:
        say(line and f"run {outcome.run}: {line}")

    try:
        outcome.arrays, outcome.not_isolated = child.loaded["arrays"], child.not_isolated
        outcome.shapes = dice.shapes = checked(outcome.slot, child.loaded["shapes"])
        if outcome.arrays == "numpy" and (options.dtype == "bfloat16" or options.device != "cpu"):
            what = f"{options.dtype} on {options.device}"
            raise Refused(
                "SIGNATURE", f"asks for NumPy arrays, and NumPy has no {what}; take torch"
            )
        tell("proving")
        if child.loaded["triton"]:
            outcome.interpreted = interpreted(child, outcome, dice)
            child.close()
            child = started(outcome)
        child = prove(child, outcome, dice)
        if outcome.good and not outcome.interpreted:
            compete(child, outcome, dice, tell)
    except Refused as refused:
        if refused.code in UNUSABLE:
            raise
        outcome.verdict, outcome.code, outcome.text = "INVALID", refused.code, refused.text
    finally:
        child.close()
        tell("")
    if not outcome.good:
        outcome.races.clear()  # a wrong kernel gets no time
    outcome.seconds = time.perf_counter() - start
    return outcome


def sha256(path: str | Path) -> str:
    """In hexadecimal; empty for a file that cannot be read, of which its loading says why."""
    with contextlib.suppress(OSError):
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return ""


def started(outcome: Outcome) -> Sandbox:
    """A new process with the kernel in it."""
    limit = INTERPRETED_LIMIT if outcome.interpreted else outcome.options.limit
    return Sandbox(outcome.order(kernel=True), limit, outcome.options.prints)


def interpreted(child: Sandbox, outcome: Outcome, dice: Dice) -> bool:
    """Whether Triton's interpreter runs it. It may have another way to run on a CPU."""
    child.limit = INTERPRETED_LIMIT
    slot = outcome.slot
    every = chosen_cases(slot, outcome.options, dice, True)
    first = next((case for case in every if fits(slot, case, outcome.shapes)), None)
    if not first:
        raise no_case(outcome)
    verdict.prove_case(child, slot, first, dice)
    return not child.pid or bool(child.ask("inspect")["interpreted"])


def no_case(outcome: Outcome) -> Refused:
    """Why nothing can be proved of a kernel."""
    given = declaration(outcome.shapes)
    return Refused("SIGNATURE", f"{given}: no case of {outcome.slot.name} has these sizes")


def chosen_cases(slot: Slot, options: Options, dice: Dice, interpreted: bool) -> Iterator[Case]:
    """The cases of a proof: captured ones, cut short for the interpreter, then edge cases."""
    for case in cases.captured(slot, options.size, options.model, dice.dtype, dice.shapes):
        yield cut(slot, case) if interpreted else case
    yield from cases.edges(slot, dice)


def cut(slot: Slot, case: Case) -> Case:
    """The first steps of a captured case."""
    n = CUT * slot.step
    args = tuple(
        a.narrow(slot.axis, 0, min(n, a.shape[slot.axis])) if i < slot.along else a
        for i, a in enumerate(case.args)
    )
    return replace(case, args=args)


def prove(child: Sandbox, outcome: Outcome, dice: Dice) -> Sandbox:
    """Prove every case; fills in findings and verdict, returns the process that is still alive."""
    slot = outcome.slot
    restarts = 0
    for case in chosen_cases(slot, outcome.options, dice, outcome.interpreted):
        if not fits(slot, case, outcome.shapes):
            outcome.left_out += 1
            continue
        finding = verdict.prove_case(child, slot, case, dice)
        outcome.findings.append(finding)
        if finding.code in UNUSABLE:
            raise Refused(finding.code, finding.text)
        if not child.pid:
            restarts += 1
            # Where a compiler may be at work, another case that hangs would take minutes too.
            if restarts > RESTARTS or (finding.code == "HANG" and child.compiles):
                break
            child = started(outcome)
    if not outcome.findings:
        raise no_case(outcome)
    if child.pid:
        outcome.note(guard.inspect(child))
        guard.no_processes(child)
        outcome.tasks = len(child.tasks())
    bad = [f for f in outcome.findings if not f.good]
    if bad:
        outcome.verdict = "WRONG" if all(f.verdict == measure.WRONG for f in bad) else "INVALID"
        outcome.code, outcome.text = bad[0].code, f"{bad[0].case.label}: {bad[0].text}"
        if outcome.code == "PACKED":
            outcome.hint = packed.advice(slot, child.prepares)
        name_it(outcome, bad)
    elif any(f.verdict == measure.NOISY for f in outcome.findings):
        outcome.verdict = measure.NOISY
    if not bad and child.pid:
        outcome.flushes = verdict.flushes(child, slot, dice)
    return child


def name_it(outcome: Outcome, bad: list[Finding]) -> None:
    """Name what the failures have in common, if it is known."""
    unseen = [f for f in outcome.findings if not f.case.seen]
    if all(f.code in ("WRONG", "EXACT", "NOT_FINITE") for f in bad):
        outcome.mistake = diagnose.name(outcome.slot, outcome.findings)
    if outcome.mistake:
        outcome.code = outcome.mistake.code or outcome.code
        return
    if shapes := diagnose.right_shapes(outcome.slot, outcome.findings):
        outcome.hint = (
            f"if it is for the shapes that it is right on, declare them: {declaration(shapes)}"
        )
    if len(bad) > 1 and all(not f.good for f in unseen) and not any(f.case.seen for f in bad):
        outcome.code = "SHAPES"
        outcome.text = (
            f"right on the shapes that the encoder has, and on none of the "
            f"{len(unseen)} others ({bad[0].case.label}: {bad[0].text})"
        )


def compete(child: Sandbox, outcome: Outcome, dice: Dice, say: Callable[[str], None]) -> None:
    """Time what has been proved, and run it in its place; with a warning if the machine is busy."""
    slot, options = outcome.slot, outcome.options
    timed = {i: f.case for i, f in enumerate(outcome.findings) if f.case.seen}
    if not timed:
        outcome.remark = (
            f"not timed: the model has no call of these shapes at --size {options.size}"
        )
        return
    # Not from the run's seed: a kernel could read that from the command line and work ahead.
    dice = Dice(secrets.randbits(62), dice.dtype)
    child.ask("perturb", on=False)
    first = next(iter(timed.values()))
    untimed = caches.replay(child, first, slot.results(first), dice, REPLAYED)
    arguments = [slot.name, torch_name(options.device)]
    ours = outcome.order(kernel=False, ours=[fair.__name__, "contestants", arguments])
    with (
        Sandbox(ours, options.limit) as reference,
        Sandbox(ours, options.limit) as twin,
        Sandbox(ours, options.limit) as rivals,
    ):
        for i, case in timed.items():
            say(f"timing {case.label} {case.shape()}")
            told = slot, case, dice, options.seconds
            race = contest(outcome, fair.race, child, [reference, twin, rivals], *told)
            outcome.races[i] = race
            if case is first:
                guard.even(untimed, race)
        outcome.note(guard.inspect(child))
        outcome.warning = outcome.warning or unclear(outcome.races)
    if options.whole:
        say("running it in its place")
        in_place(outcome, dice)


def contest(
    outcome: Outcome,
    race: Callable[..., Race],
    candidate: Sandbox,
    others: list[Sandbox],
    *arguments: Any,
) -> Race:
    """A race, by itself or in the encoder's place, and what only the parent sees of it."""
    load = Load([candidate, *others])
    result = raced(load, race, candidate, *others, *arguments)
    result.busy = load.busy()
    guard.same_chances(candidate, others)
    guard.no_starving(result)
    if result.busy:
        outcome.warning = f"the machine is busy: {result.busy} meanwhile. Nothing is recorded"
    return result


def raced(load: Load, race: Callable[..., Race], candidate: Sandbox, *others: Any) -> Race:
    """The race, once more where chance may be why the kernel is refused.

    Only what comes twice is held against a kernel, and on a busy machine with a word on it. The
    second race has more rounds: chance may have happened to two of three calls.
    """
    try:
        return race(candidate, *others)
    except Refused as refused:
        if refused.code not in CHANCE or refused.certain or not candidate.pid:
            raise
    busy = load.busy()
    try:
        return race(candidate, *others, least=ENOUGH)
    except Refused as refused:
        text = refused.text + (busy and f"; the machine is busy: {busy}")
        raise Refused(refused.code, text) from None


def unclear(races: dict[int, Race]) -> str:
    """A line if a race says nothing, though no other load was seen; else nothing."""
    reasons = [reason for race in races.values() if (reason := race.unclear())]
    return f"the machine is too busy: {reasons[0]}. Nothing is recorded" if reasons else ""


def in_place(outcome: Outcome, dice: Dice) -> None:
    """Run the encoder with the kernel in it, and time it unless the kernel is noisy."""
    slot, options = outcome.slot, outcome.options
    depth = options.depth or (None if options.model or options.size == "tiny" else WHOLE_BLOCKS)
    model = cases.model(options.size, options.model, dice.dtype, depth)
    device = torch_name(options.device)
    arguments = [slot.name, options.size, options.model, depth, options.dtype, device]
    ours = [whole.__name__, "functions", arguments]
    what = (
        f"{'front end and ' if slot.front_end else ''}encoder, {options.model or options.size}, "
        f"{model.config.n_audio_layer} blocks"
    )
    if outcome.shapes:
        fitting, calls = whole.of_shapes(slot, model, outcome.shapes)
        if not fitting:
            outcome.remark = f"not run in its place: none of the {calls} calls has these shapes"
            return
        what += f", {fitting} of its {calls} calls" + " and ours in the others" * (fitting < calls)
    limit = max(options.limit, 120)
    with (
        Sandbox(outcome.order(True, ours), limit, options.prints) as candidate,
        Sandbox(outcome.order(False, ours), limit) as reference,
    ):
        case = Case("whole", (whole.clip(slot, model),))
        found = whole.run_whole(candidate, reference, slot, model, case, dice, what)
        outcome.whole = found
        guard.no_more_threads(candidate, outcome.tasks, reference)
        if outcome.verdict == measure.PASS:
            told = case, dice, found, options.seconds
            race = contest(outcome, whole.race_of_wholes, candidate, [reference], *told)
            found.times, found.busy = [race.times[""], race.times[REFERENCE]], race.busy
        outcome.note(guard.inspect(candidate))
