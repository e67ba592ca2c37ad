"""Names a mistake: which known one gives the kernel's wrong numbers?

The cases that the kernel failed are run with every entry of the catalogue `parity.mistakes` that
touches the slot, and with our own functions in fewer bits. The one that gives the kernel's numbers
is named. Mistakes of rounding have different wrong digits in every order of summing: such a mistake
is named if it fails the same cases by about as much, with an error spread in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from melfront.encoder import ops
from melfront.parity import noise as measure
from melfront.variants import round_mantissa

from ..sandbox.parent import name_of
from ..slots.base import Function, Slot, as_list, in_float64
from ..slots.inputs import Case
from ..slots.shapes import fits, sizes_of
from ..slots.signature import Shapes
from .cases import MOST_SIZES
from .verdict import Finding, array

SAME = 0.05  # of the kernel's error may be left when a mistake is assumed
ALIKE = 6.0  # the errors are of the same size


class Suspect(NamedTuple):
    """A mistake that may be the kernel's."""

    name: str
    sentence: str
    code: str
    run: Callable[..., Any]  # the slot's arguments -> what the mistake makes of them


def suspects(slot: Slot) -> Iterator[Suspect]:
    """Every known mistake that can be made in a slot."""
    from melfront.parity import mistakes

    for dtype in (torch.float16, torch.bfloat16):
        name = name_of(dtype)
        text = f"computed in {name} and widened again"
        yield Suspect(f"{name} inside", text, "PRECISION", partial(computed_in, slot, dtype))
    for name, bits in (("TF32", 10), ("bfloat16 factors", 7)):
        text = f"the arguments keep {bits} bits, as tensor cores take them"
        yield Suspect(name, text, "PRECISION", partial(with_factors_of, slot, bits))
    if slot.under:
        for change in mistakes.FRONT_END:
            if not slot.stages or change.stage in slot.stages:
                run = partial(of_tensors, slot.under(change.convention()))
                yield Suspect(change.name, change.sentence, "", run)
    else:
        for entry in (*mistakes.KERNEL, *mistakes.ENCODER):
            if entry.ops and not entry.needs_clip:
                run = partial(with_ops, slot, dict(entry.ops))
                yield Suspect(entry.name, entry.sentence, "", run)
    returned = "the result is the first argument"
    yield Suspect("argument returned", returned, "", lambda x, *_, **__: x)


def computed_in(slot: Slot, dtype: torch.dtype, *args: Any, **kwargs: Any) -> list[Tensor]:
    """The reference computed in another type."""
    given = tuple(a.to(dtype) if isinstance(a, Tensor) else a for a in args)
    return [out.float() for out in slot.results(Case("", given, kwargs))]


def with_factors_of(slot: Slot, bits: int, *args: Any, **kwargs: Any) -> Any:
    """TF32 and its like round the factors of products, not what is added."""
    wide = [isinstance(a, Tensor) and a.ndim > 1 for a in args]
    given = [round_mantissa(a, bits) if w else a for a, w in zip(args, wide, strict=True)]
    return slot.reference(*given, **kwargs)


def with_ops(slot: Slot, replaced: dict[str, Function], *args: Any, **kwargs: Any) -> Any:
    """The slot's function with other ops inside it, or with itself replaced."""
    if {"scores", "softmax"} & set(replaced):
        replaced = {"attention": ops.explicit_attention, **replaced}
    with ops.using(**replaced):
        return getattr(ops.current(), slot.name, slot.reference)(*args, **kwargs)


def of_tensors(function: Function, *args: Any, **kwargs: Any) -> Any:
    return function(*in_float64(args), **kwargs)


def name(slot: Slot, findings: list[Finding]) -> Suspect | None:
    """The known mistake that a kernel's wrong results come from, or None."""
    known = [f for f in findings if f.outs]
    wrong = [f for f in known if f.code in ("WRONG", "EXACT", "NOT_FINITE")]
    wrong = sorted(wrong, key=lambda f: f.case.args[0].numel())[:4]
    right = [f for f in known if f.good and f.case.args[0].numel() < 1 << 18]
    alike: list[tuple[float, Suspect]] = []
    for suspect in suspects(slot) if wrong else ():
        try:
            with np.errstate(all="ignore"), torch.no_grad():
                if all(explains(suspect, f) for f in wrong):
                    return suspect
                if not all(of_rounding(suspect, f) for f in wrong):
                    continue
                distance = [resemblance(suspect, f) for f in wrong]
                harmless = all(noise_of(suspect, f) <= measure.NOISY_LIMIT for f in right)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
            continue  # this mistake cannot be made with these arguments
        if max(distance) <= np.log(ALIKE) and harmless:
            alike.append((sum(distance), suspect))
    return min(alike, key=lambda pair: pair[0])[1] if alike else None


def outputs(suspect: Suspect, case: Case) -> list[Any]:
    """What a mistake makes of a case, as NumPy arrays."""
    return list(map(array, as_list(suspect.run(*case.args, **case.kwargs))))


def explains(suspect: Suspect, finding: Finding) -> bool:
    """Whether a mistake gives the kernel's results up to noise, and is wrong on this case."""
    standard = finding.standard
    made = outputs(suspect, finding.case)
    if any(m.shape != t.shape for m, t in zip(made, standard.truths, strict=True)):
        return False
    for got, assumed, floor in zip(map(array, finding.outs), made, standard.floors, strict=True):
        neither = ~(np.isfinite(got) | np.isfinite(assumed))
        left = np.where(neither, 0.0, got.astype(np.float64) - assumed)
        allowed = max(2 * floor, SAME * finding.noise * floor if np.isfinite(finding.noise) else 0)
        if not measure.rms(left) <= allowed:
            return False
    return not noise_of(suspect, finding) <= measure.PASS_LIMIT[standard.dtype]


def noise_of(suspect: Suspect, finding: Finding) -> float:
    return finding.standard.error(outputs(suspect, finding.case)).noise


def of_rounding(suspect: Suspect, finding: Finding) -> bool:
    """Whether a mistake vanishes in float64."""
    if suspect.code == "PRECISION":
        return True
    case, standard = finding.case, finding.standard
    args = tuple(a.double() if isinstance(a, Tensor) else a for a in case.args)
    made = outputs(suspect, replace(case, args=args))
    return any(m.dtype == np.float64 for m in made) and all(
        not np.isfinite(m).all() or measure.rms(m - t) <= measure.PASS_LIMIT["float64"] * floor
        for m, t, floor in zip(made, standard.truths, standard.floors, strict=True)
    )


def resemblance(suspect: Suspect, finding: Finding) -> float:
    """How much two errors differ in size and in spread: the larger log ratio, 0 for none."""
    size, spread = [], []
    for outs in (outputs(suspect, finding.case), finding.outs):
        pairs = zip(map(array, outs), finding.standard.truths, strict=True)
        error = np.concatenate([np.abs(out - truth).ravel() for out, truth in pairs])
        finite = bool(np.isfinite(error).all())
        size.append(measure.rms(error) if finite else float("inf"))
        # An error everywhere has its median near its mean; one in a corner has a median of zero.
        spread.append(float(np.median(error)) / max(size[-1], 1e-30) if finite else 1.0)
    if not np.isfinite(size).all():
        return 0.0 if size[0] == size[1] else float("inf")
    logs = [abs(float(np.log((a + 1e-12) / (b + 1e-12)))) for a, b in (size, spread)]
    return max(logs)


def right_shapes(slot: Slot, findings: list[Finding]) -> Shapes:
    """The sizes on which a kernel is right, if all that it fails are of others; else none."""
    bad = [f.case for f in findings if not f.good]
    good = [f.case for f in findings if f.good]
    if any(case.seen for case in bad) or not any(case.seen for case in good):
        return {}
    worked, failed = (sizes_of_all(slot, of_some) for of_some in (good, bad))
    shapes = {k: tuple(sorted(s)) for k, s in worked.items() if not failed.get(k, set()) <= s}
    clear = not any(fits(slot, case, shapes) for case in bad)
    return shapes if shapes and clear and max(map(len, shapes.values())) <= MOST_SIZES else {}


def sizes_of_all(slot: Slot, of_some: list[Case]) -> dict[str, set[int]]:
    """The sizes of several cases, by letter."""
    found: dict[str, set[int]] = {}
    for case in of_some:
        for letter, sizes in sizes_of(slot, case).items():
            found[letter] = found.get(letter, set()) | sizes
    return found
