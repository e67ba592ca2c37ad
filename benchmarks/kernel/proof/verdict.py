"""The proof: is a kernel right on every case, by the measure of `parity.measure`, and is it honest.

Every case is called three times, with contents A, B and A again at the same addresses. What each
result has to be is worked out here, in float64, from contents that the child is shown only by
calling the kernel on them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity import measure

from ..sandbox.guard import FRESH, INTEGERS, POISON
from ..sandbox.parent import Child, Refused
from ..sandbox.processes import descendants
from ..slots.base import Slot, results
from .cases import Case, Dice


@dataclass
class Standard:
    """What a case's results have to be, and how much noise they may have."""

    case: Case
    dtype: str
    truths: list[Any]  # float64
    sane: list[Tensor]  # the reference's results
    floors: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, slot: Slot, case: Case, dtype: str) -> Standard:
        truths = slot.truth(*case.args, **case.kwargs)
        truths = truths if isinstance(truths, list) else [truths]
        sane = results(slot, case.args, case.kwargs)
        floors = [
            measure.noise_floor(t, array(s), dtype) for t, s in zip(truths, sane, strict=True)
        ]
        return cls(case, dtype, truths, sane, floors)

    def error(self, outs: list[Any]) -> measure.Error:
        """The worst of the results' errors."""
        errors = [
            measure.error(array(o), t, f, self.dtype)
            for o, t, f in zip(outs, self.truths, self.floors, strict=True)
        ]
        return max(errors, key=lambda e: e.noise if e.noise == e.noise else float("inf"))


@dataclass
class Finding:
    """What came of one case."""

    case: Case
    verdict: str  # PASS, NOISY or WRONG by the measure; INVALID for what is no result at all
    noise: float = float("nan")
    max_abs: float = float("nan")
    worst: tuple[int, ...] = ()
    code: str = ""
    text: str = ""
    repeats: bool = True  # the same bits for the same contents
    standard: Standard | None = None
    outs: list[Any] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # seconds, untimed calls

    @property
    def good(self) -> bool:
        return self.verdict in (measure.PASS, measure.NOISY)


def array(x: Any) -> Any:
    """A tensor of any float type as NumPy; 16-bit types as float32, which holds them exactly."""
    if not isinstance(x, Tensor):
        return x
    return (x if x.dtype in (torch.float32, torch.float64) else x.float()).numpy()


def check(
    outs: list[Tensor], standard: Standard, earlier: Iterable[Standard] = ()
) -> measure.Error:
    """The error of a result. Raises Refused, with the reason, unless it is right or nearly so."""
    for out, truth in zip(outs, standard.truths, strict=True):
        name = str(out.dtype).removeprefix("torch.")
        integer = getattr(torch, INTEGERS[name].removeprefix("u"))
        marks = torch.tensor([POISON[name], FRESH[name]], dtype=torch.int64).to(integer)
        unwritten = (out.view(integer) == marks[0]) | (out.view(integer) == marks[1])
        if unwritten.any():
            first = tuple(int(i) for i in unwritten.nonzero()[0])
            raise Refused(
                "UNWRITTEN",
                f"{int(unwritten.sum()):,} of {out.numel():,} values were "
                f"never written, the first at {first}",
            )
        bad = ~torch.isfinite(out) & torch.from_numpy(np.isfinite(truth))
        if bad.any():
            first = tuple(int(i) for i in bad.nonzero()[0])
            raise Refused(
                "NOT_FINITE",
                f"{int(bad.sum()):,} of {out.numel():,} values are NaN or "
                f"infinite, the first at {first}",
            )
    error = standard.error(outs)
    if standard.case.exact:
        for out, truth in zip(outs, standard.truths, strict=True):
            right = torch.from_numpy(truth).to(out.dtype)
            if not torch.equal(out, right):
                n = int((out != right).sum())
                raise Refused(
                    "EXACT",
                    f"{n:,} of {out.numel():,} values are not exact, on {{0, 1}}"
                    " where nothing is rounded",
                )
    for other in earlier:
        if error.verdict == measure.WRONG and other.error(outs).verdict == measure.PASS:
            raise Refused(
                "STALE",
                "the answer to an earlier call with other contents at the same "
                "addresses: it goes by the address, not by what lies there",
            )
    if error.verdict == measure.WRONG:
        raise Refused(
            "WRONG", f"{error.noise:.3g} x noise, {error.max_abs:.2g} off at {error.worst}"
        )
    for out, sane, truth, floor in zip(
        outs, standard.sane, standard.truths, standard.floors, strict=True
    ):
        if out.ndim > 1:
            mine, theirs = (
                measure.step_errors(
                    array(x).reshape(-1, x.shape[-1]), truth.reshape(-1, x.shape[-1]), 0
                )
                for x in (out, sane)
            )
            excess = mine / np.maximum(theirs, floor)
            row = int(np.argmax(excess))
            if not excess[row] <= measure.BAD_STEP:
                at = tuple(int(i) for i in np.unravel_index(row, out.shape[:-1]))
                raise Refused(
                    "WRONG",
                    f"row {at} is {excess[row]:.3g} x as noisy as the "
                    "reference's, though the whole is not",
                )
    return error


def prove_case(child: Child, slot: Slot, case: Case, dice: Dice) -> Finding:
    """Call a case three times: contents A, B, and A again."""
    dtype = str(dice.dtype).removeprefix("torch.")
    contents = [dice.vary(case), dice.vary(case)]
    standards = [Standard.of(slot, c, dtype) for c in contents]
    finding = Finding(contents[0], measure.PASS)
    worst: measure.Error | None = None
    copies: list[list[Tensor]] = []
    outs = standards[0].sane
    try:
        child.case(
            case.args,
            case.kwargs,
            outs,
            single=len(outs) == 1 and slot.name != "qkv",
            bind=slot.call,
            hold=2,
        )
        for i in (0, 1, 0):
            child.write(contents[i].tensors())
            tasks = child.tasks()
            call = child.call()
            finding.times.append(call.time)
            copies.append(child.copied)
            finding.standard, finding.outs = standards[i], child.copied
            if not child.untouched(contents[i].tensors()):
                raise Refused("MUTATED", "changes what it is given")
            if len(copies) == 3:
                quiet(child, tasks)
            earlier = [standards[1 - i]] if len(copies) > 1 else []
            error = check(child.copied, standards[i], earlier)
            worst = error if worst is None or not error.noise <= worst.noise else worst
    except Refused as refused:
        if refused.code in ("UNWRITTEN", "WRONG", "NOT_FINITE", "STALE"):
            refused = unfinished(child, contents[0]) or refused
        finding.code, finding.text = refused.code, refused.text
        wrong = ("WRONG", "EXACT", "STALE", "NOT_FINITE", "UNWRITTEN")
        finding.verdict = measure.WRONG if refused.code in wrong else "INVALID"
        if refused.code in ("WRONG", "EXACT", "STALE") and finding.standard:
            error = finding.standard.error(finding.outs)
            finding.noise, finding.max_abs, finding.worst = error[1:]
        return finding
    assert worst is not None
    finding.verdict, finding.noise, finding.max_abs, finding.worst = worst
    finding.repeats = all(map(torch.equal, copies[0], copies[2]))
    finding.standard, finding.outs = standards[0], copies[0]
    return finding


def unfinished(child: Child, content: Case) -> Refused | None:
    """A result that is not there may be still to come, from a thread: call once more and look."""
    try:
        child.write(content.tensors())
        tasks = child.tasks()
        child.call()
        quiet(child, tasks)
    except Refused as refused:
        return refused if refused.code in ("THREAD", "PROCESS") else None
    return None


def quiet(child: Child, tasks: set[int]) -> None:
    """Nobody may work on after a call has returned, and no thread that it started may live on.

    Workers that were there before the call, as those of OpenMP and numba from the second call on,
    may: they sleep.
    """
    left = child.left(tasks)
    used: list[float] = []
    patience = 0.01
    while len(used) < 3 and all(u > 0.25 * patience for u in used):  # thrice: no accident
        child.rest()
        time.sleep(patience)
        used.append(child.check_quiet("wait"))
    child.rest()
    if all(u > 0.25 * patience for u in used):  # False where it is unknown
        raise Refused(
            "THREAD",
            f"works on after it has returned: {1e3 * min(used):.1f} ms of "
            f"processor time in the {1e3 * patience:.0f} ms after",
        )
    if left:
        raise Refused(
            "THREAD", f"a call leaves {len(left)} thread(s) behind that were not there before it"
        )
    others = descendants(child.pid)
    if others:
        raise Refused("PROCESS", f"leaves {len(others)} process(es) behind")


def inspected(child: Child) -> None:
    """Ask the child what it can see: replaced functions, imports of ours."""
    seen = child.ask({"do": "inspect"})
    if seen["ours"]:
        raise Refused(
            "REFERENCE",
            f"imports {', '.join(seen['ours'][:3])}, which it is compared "
            "with; write it out, or call torch",
        )
    if seen["tampered"]:
        raise Refused("TAMPERED", f"replaces {', '.join(seen['tampered'][:4])}")


def replayed(child: Child, slot: Slot, case: Case, dice: Dice, pairs: int = 8) -> list[float]:
    """Refuse what keeps its answers; returns the times of these calls, in seconds.

    New contents alternate with contents that came four calls before. No timed input ever comes
    twice, so a cache gains nothing there; but a kernel that has one computes less than it seems to
    wherever inputs repeat. It is found by the processor time that it saves, or by the memory that
    its answers take.
    """
    outs = results(slot, case.args, case.kwargs)
    child.case(case.args, case.kwargs, outs, single=len(outs) == 1 and slot.name != "qkv")
    made = [dice.vary(case) for _ in range(pairs + 2)]
    order = [(0, True), (1, True)]
    for i in range(pairs):
        order += [(i + 2, True), (i, False)]
    spent: dict[bool, list[float]] = {True: [], False: []}
    times, start_memory, counted = [], 0, 0
    child.look = False
    for number, (i, fresh) in enumerate(order):
        child.write(made[i].tensors())
        call = child.call()
        times.append(call.time)
        if number >= 4:
            spent[fresh].append(call.working if call.working == call.working else call.time)
        if number == 8:
            start_memory = child.memory()
        counted += fresh and number > 8
    child.look = True
    grown = child.memory() - start_memory
    answer = sum(o.numel() * o.element_size() for o in outs)
    if start_memory and grown > max(0.5 * counted * answer, 8 << 20):
        raise Refused(
            "CACHE",
            f"its memory grows by {grown / counted / 1e6:.1f} MB with every new "
            f"input, and an answer takes {answer / 1e6:.1f} MB: it keeps them",
        )
    new, again = np.sort(spent[True]), np.sort(spent[False])
    # Not the medians alone: all but one of the repeats must be below all but one of the new ones.
    if np.median(again) < 0.6 * np.median(new) and again[-2] < new[1]:
        raise Refused(
            "CACHE",
            f"an input that came before takes {1e3 * np.median(again):.2f} ms, "
            f"a new one {1e3 * np.median(new):.2f} ms: it keeps its answers",
        )
    return times
