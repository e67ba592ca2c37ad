"""The proof: is a kernel right on every case, by the measure of `parity.noise`, and is it honest?

Every case is called three times, with contents A, B and A again at the same addresses. The right
results are worked out here, in float64, when the kernel has answered: before that they are nowhere,
not even in our memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from melfront.parity import noise as measure

from ..reasons import Refused
from ..sandbox import guard
from ..sandbox.parent import Sandbox, as_integers, name_of
from ..slots.base import Slot
from ..slots.inputs import Case, Dice
from ..slots.shapes import fits
from ..worker.memory import FRESH, POISON
from . import packed

# How contents vary that need no rounding, and what they are.
EXACT = {"bits": "{0, 1}", "integers": "whole numbers of 12 bits and of 3"}
WRONG_RESULT = ("WRONG", "EXACT", "STALE", "PACKED", "NOT_FINITE", "UNWRITTEN")


class Standard:
    """What a case's results must be, and how much noise they may have."""

    def __init__(self, case: Case, truths: list[Any], references: list[Tensor]) -> None:
        """truths: float64 arrays; references: what ours returns."""
        self.case, self.truths, self.references = case, truths, references
        self.dtype = name_of(case.args[0].dtype)
        self.floors = [
            measure.noise_floor(t, array(x), self.dtype)
            for t, x in zip(truths, references, strict=True)
        ]

    @classmethod
    def of(cls, slot: Slot, case: Case) -> Standard:
        return cls(case, slot.truths(case), slot.results(case))

    def errors(self, outs: list[Any]) -> list[measure.Error]:
        """The error of each result."""
        return [
            measure.error(array(o), t, f, self.dtype)
            for o, t, f in zip(outs, self.truths, self.floors, strict=True)
        ]

    def error(self, outs: list[Any]) -> measure.Error:
        """The worst of the results' errors."""
        return max(self.errors(outs), key=lambda e: e.noise if e.noise == e.noise else np.inf)


@dataclass
class Finding:
    """What came of one case."""

    case: Case
    verdict: str  # PASS, NOISY or WRONG by the measure; INVALID without a result to measure
    noise: float = float("nan")
    max_abs: float = float("nan")
    worst: tuple[int, ...] = ()
    code: str = ""
    text: str = ""
    repeats: bool = True  # the same bits for the same contents
    outs: list[Any] = field(default_factory=list)
    standard: Standard = field(init=False)  # of these outs; there is none before the first

    @property
    def good(self) -> bool:
        return self.verdict in (measure.PASS, measure.NOISY)


def array(x: Any) -> Any:
    """A tensor of any float dtype as NumPy; 16 bits as float32, which holds them exactly."""
    if not isinstance(x, Tensor):
        return x
    return (x if x.dtype in (torch.float32, torch.float64) else x.float()).numpy()


def check(
    outs: list[Tensor], standard: Standard, earlier: Iterable[Standard] = ()
) -> measure.Error:
    """The error of a result. Raises Refused, with the reason, unless it is right or nearly so.

    earlier: what calls before had to return, to name a result that is one of theirs.
    """
    pairs = list(zip(outs, standard.truths, strict=True))
    for out, truth in pairs:
        none_of(unwritten(out), "UNWRITTEN", "were never written")
        bad = ~torch.isfinite(out) & torch.from_numpy(np.isfinite(truth))
        none_of(bad, "NOT_FINITE", "are NaN or infinite")
    for out, truth in pairs if standard.case.vary in EXACT else ():
        bad = out != torch.from_numpy(truth).to(out.dtype)
        none_of(
            bad, "EXACT", f"are not exact, on {EXACT[standard.case.vary]} where nothing is rounded"
        )
    error = standard.error(outs)
    if error.verdict == measure.WRONG:
        if any(other.error(outs).verdict == measure.PASS for other in earlier):
            raise Refused(
                "STALE",
                "the answer to an earlier call with other contents at the same addresses: it "
                "looks at the address, not at what is there",
            )
        raise Refused(
            "WRONG", f"{error.noise:.3g} x noise, {error.max_abs:.2g} off at {error.worst}"
        )
    for out, ours, truth, floor in zip(
        outs, standard.references, standard.truths, standard.floors, strict=True
    ):
        if out.ndim > 1:
            every_row(array(out), array(ours), truth, floor)
    return error


def unwritten(out: Tensor) -> Tensor:
    """Which values are a mark of unwritten memory."""
    bits, dtype = as_integers(out), name_of(out.dtype)
    return (bits == POISON[dtype]) | (bits == FRESH[dtype])


def none_of(bad: Tensor, code: str, what: str) -> None:
    """Refuse a result if any of its values is bad, and say where the first one is."""
    if bad.any():
        first = tuple(int(i) for i in bad.nonzero()[0])
        counts = f"{int(bad.sum()):,} of {bad.numel():,}"
        raise Refused(code, f"{counts} values {what}, the first at {first}")


def every_row(out: Any, ours: Any, truth: Any, floor: float) -> None:
    """Refuse a row that is far noisier than the reference's, though the whole is not."""
    n = out.shape[-1]
    mine, theirs = (
        measure.step_errors(x.reshape(-1, n), truth.reshape(-1, n), 0) for x in (out, ours)
    )
    excess = mine / np.maximum(theirs, floor)
    row = int(np.argmax(excess))
    if not excess[row] <= measure.BAD_STEP:
        at = tuple(int(i) for i in np.unravel_index(row, out.shape[:-1]))
        raise Refused(
            "WRONG",
            f"row {at} is {excess[row]:.3g} x as noisy as the reference's, though the whole is not",
        )


def prove_case(child: Sandbox, slot: Slot, case: Case, dice: Dice) -> Finding:
    """Call a case three times: contents A, B, and A again.

    A kernel with a `prepare` once more, with B's first argument and what it prepared for A.
    """
    contents = [dice.vary(case) for _ in range(2)]
    order = [0, 1, 0]
    if child.prepares:
        a, b = contents
        contents.append(replace(a, args=(b.args[0], *a.args[1:])))
        order.append(2)
    standards: list[Standard] = []  # of those that the kernel has been called with
    finding = Finding(contents[0], measure.PASS)
    errors: list[measure.Error] = []
    copies: list[list[Tensor]] = []
    earlier: list[Standard] = []  # of this case's calls before
    try:
        call = slot.prepared_call if child.prepares else slot.call
        # Results of other contents: only their form is needed.
        child.case(case, slot.results(case), bind=call, hold=len(order) - 1)
        for i in order:
            tasks = child.tasks()
            child.write(contents[i])
            child.call()
            copies.append(child.copied)
            if len(standards) == i:
                standards.append(Standard.of(slot, contents[i]))
            finding.case, finding.standard = contents[i], standards[i]
            finding.outs = child.copied
            child.check_untouched(contents[i])
            if len(copies) == 3:
                guard.no_work_after(child, tasks)
            if len(copies) > 1:
                earlier = [s for s in standards[:2] if s is not standards[i]]
            errors.append(check(child.copied, standards[i], earlier))
        for back, first in enumerate(reversed(copies)):
            guard.kept(child, back, first)
    except Refused as refused:
        known = [*(s.case for s in earlier), *child.proved] if refused.code == "WRONG" else []
        if any(has_weights_of(slot, finding, other) for other in known):
            refused = Refused("PACKED", "right for the weights of an earlier call")
        return failed(finding, child, refused)
    finally:
        child.proved.append(replace(contents[0], args=(None, *contents[0].args[1:])))
    worst = max(errors, key=lambda error: error.noise)
    finding.verdict, finding.noise, finding.max_abs, finding.worst = worst
    finding.repeats = all(map(torch.equal, copies[0], copies[2]))
    finding.outs = copies[0]
    return finding


def has_weights_of(slot: Slot, finding: Finding, earlier: Case) -> bool:
    """Whether a wrong result is right once some weights are those of an earlier call."""
    mixed = packed.with_older(slot, finding.outs, finding.case, earlier)
    if mixed is None:
        return False
    return Standard.of(slot, mixed).error(finding.outs).verdict != measure.WRONG


def flushes(child: Sandbox, slot: Slot, dice: Dice) -> bool:
    """Whether the kernel counts numbers below 1e-38 as zero, as honest compilers may have it do.

    What Whisper computes has none, so this is said and not held against it.
    """
    case = slot.small(dice) if slot.small and dice.dtype == torch.float32 else None
    if not case or not fits(slot, case, dice.shapes):
        return False
    child.case(case, slot.results(case))
    child.write(case)
    child.call()
    lost = (child.copied[0] == 0) & torch.from_numpy(slot.truths(case)[0] != 0)
    return float(lost.float().mean()) > 0.1  # one thread of several may flush


def failed(finding: Finding, child: Sandbox, refused: Refused) -> Finding:
    """The finding of a case that was refused."""
    if refused.code in ("UNWRITTEN", "WRONG", "NOT_FINITE", "STALE", "PACKED"):
        # A missing result may still be on its way, from a thread.
        refused = guard.unfinished(child, finding.case) or refused
    finding.code, finding.text = refused.code, refused.text
    finding.verdict = measure.WRONG if refused.code in WRONG_RESULT else "INVALID"
    if refused.code in ("WRONG", "EXACT", "STALE", "PACKED") and finding.outs:
        error = finding.standard.error(finding.outs)
        finding.noise, finding.max_abs, finding.worst = error[1:]
    return finding
