"""Weights that a kernel has kept: is its result right for the weights of an earlier call?

What every real kernel does once per set of weights belongs into its `prepare`. A kernel that does
it in its first call has the old weights in every later one, and a result far from the truth.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..slots.base import Slot, as_list
from ..slots.inputs import Case


def with_older(slot: Slot, outs: list[Tensor], case: Case, earlier: Case) -> Case | None:
    """The case with those weights of an earlier one that bring it nearer to a kernel's results.

    Each is made old in turn, and stays so if that helps: their effects are independent, so one
    round finds all that are old. None if none helps.
    """
    mixed, distance = case, away(slot, outs, case)
    both = zip(case.args[: 1 + slot.weights], earlier.args, strict=False)
    for i, (new, old) in enumerate(both):
        if i and isinstance(old, Tensor) and isinstance(new, Tensor) and old.shape == new.shape:
            args = (*mixed.args[:i], old, *mixed.args[i + 1 :])
            trial = replace(mixed, args=args)
            if (nearer := away(slot, outs, trial)) < distance:
                mixed, distance = trial, nearer
    return None if mixed is case else mixed


def away(slot: Slot, outs: list[Tensor], case: Case) -> float:
    """How far results are from what the reference makes of a case."""
    pairs = zip(outs, as_list(slot.ours(*case.args, **case.kwargs)), strict=True)
    return sum(float(torch.dist(out.double(), theirs.double())) ** 2 for out, theirs in pairs)


def advice(slot: Slot, prepares: bool) -> str:
    """What a kernel that keeps weights should do, with or without a `prepare`."""
    return "weights change from call to call here: " + (
        "forget what `prepare` made of others when it is called again"
        if prepares
        else f"do what is done once per set of weights in `{slot.prepare_call}`, "
        "which is called outside the time"
    )
