"""The tensors of a file under the stages that they are of."""

from __future__ import annotations

from itertools import islice

import numpy as np

from ..noise import Array
from ..stages import ALIASES, FRONT_END, ParityError, Stage, nearest, shown
from .names import HIDDEN, NoStage, joined, sorted_out
from .tensors import STATES, Dump, Tensor

NAMED_AT_MOST = 5  # names of what is left out, in a report


def by_stage(dump: Dump[str], n_layer: int | None) -> Dump[Stage]:
    """A dump with its tensors under their stages, in order. Raises ParityError.

    n_layer: how many blocks the encoder has, if that is known. What is no stage is left out, and
    said in `left_out`, if there is anything else. Of two names of one stage the second is left out
    if it has the same values or is a hidden state.
    """
    dump = unstacked(dump, n_layer)
    stages, unknown = sorted_out(dump.tensors, n_layer)
    if unknown and not stages:
        raise next(iter(unknown.values()))
    if stages.get("mel") == "features" and is_power(dump.tensors["mel"].values):
        stages["mel"] = Stage("mel")
    tensors: dict[Stage, Tensor] = {}
    for name, stage in sorted(stages.items(), key=lambda item: item[0].startswith(HIDDEN)):
        if stage in tensors and not same(name, dump.tensors[name], tensors[stage]):
            raise ParityError(f"two tensors for the stage {stage}: {name!r} and another; keep one")
        tensors.setdefault(stage, dump.tensors[name])
    for stage, tensor in tensors.items():
        if np.iscomplexobj(tensor.values) and stage != "spectrum":
            raise ParityError(f"{stage}: complex numbers; only the spectrum has them")
    ordered = sorted(tensors, key=lambda stage: stage.order)
    first = islice(unknown.items(), NAMED_AT_MOST + 1)  # a search for each
    left_out = [*dump.left_out, *(f"left out: {why(*pair)}" for pair in first)]
    if (more := len(dump.left_out) + len(unknown) - NAMED_AT_MOST) > 1:
        left_out[NAMED_AT_MOST:] = [f"left out: {more} more that are no stages"]
    staged = {stage: tensors[stage] for stage in ordered}
    return Dump(staged, dump.metadata, tuple(left_out))


def why(name: str, error: ParityError) -> str:
    """Why a tensor is left out, in a report."""
    if isinstance(error, NoStage):
        return str(error)
    near = nearest(name, 0.75)
    return f"{shown(name)} is no stage's name" + (f"; did you mean {near}?" if near else "")


def same(name: str, tensor: Tensor, other: Tensor) -> bool:
    """May a second tensor of a stage be left out? name: the second's.

    A hook on a module and one on its last part give the same values. Two names of ours are two
    tensors that the user means, whatever they hold.
    """
    if name.startswith(HIDDEN):
        return True
    ours = name in ALIASES or name in FRONT_END
    return not ours and np.array_equal(np.squeeze(tensor.values), np.squeeze(other.values))


def is_power(values: Array) -> bool:
    """Does a tensor called `mel` hold powers, before the logarithm, and not features?

    Features reach below 0, unless a clip is taken for far too loud: then they span a factor of 2.
    """
    return bool(values.size and 0 <= values.min() < values.max() / 100)


def layers_named(*dumps: Dump[str]) -> int:
    """How many blocks the tensors' names speak of."""
    stages = (sorted_out(dump.tensors, None)[0].items() for dump in dumps)
    named = (s for pairs in stages for name, s in pairs if not name.startswith(HIDDEN))
    return max((1 + s.block for s in named if s.block is not None), default=0)


def unstacked(dump: Dump[str], n_layer: int | None) -> Dump[str]:
    """Hidden states in one tensor, (L + 1, B, T, S) or (L + 1, T, S), taken apart.

    Raises ParityError for another number of them than the encoder gives.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in dump.tensors.items():
        values = tensor.values
        given = len(values) if values.ndim else 0
        whole = n_layer is not None and given == n_layer + 1
        if joined(name) not in STATES or not (values.ndim == 4 or (values.ndim == 3 and whole)):
            tensors[name] = tensor
            continue
        if n_layer and not whole:
            raise ParityError(
                f"{name}: {given} hidden states; an encoder of {n_layer} blocks gives {n_layer + 1}"
            )
        tensors |= {f"{HIDDEN}{i}": tensor._replace(values=x) for i, x in enumerate(values)}
    return dump._replace(tensors=tensors)
