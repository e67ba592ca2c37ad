"""A kernel in its place: the encoder or the front end run with it, end to end.

A kernel that is right by itself may still do harm: its error in each block may grow from one to the
next. So each hidden state is measured against float64, in units of the noise that our own encoder
has at the same depth.

    # B batch  M mel bins  F frames  L samples  T positions  S state
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import melfront
from melfront.encoder import WhisperEncoder, ops, oracle
from melfront.parity import noise as measure
from melfront.parity.files.names import hidden_state

from ...race import TOO_BUSY, ratio_interval
from ..proof import cases
from ..proof.verdict import Standard
from ..reasons import Refused
from ..sandbox import guard
from ..sandbox.parent import Sandbox
from ..slots import find
from ..slots.base import Array, Function, Slot, as_list
from ..slots.inputs import Case, Dice
from ..slots.shapes import checked, fits
from ..slots.signature import Shapes
from ..worker.loading import Candidate
from .fair import Heat
from .times import REFERENCE, Race

LEAST_ROUNDS, MOST_ROUNDS = 3, 15


# --- in the worker's process ----------------------------------------------------------------------


def functions(
    candidate: Candidate | None,
    name: str,
    size: str,
    source: str | None,
    depth: int | None,
    dtype: str,
    device: str,
) -> dict[str, tuple[Function, str]]:
    """What a worker serves: the whole run with the candidate in its slot, or with our own."""
    slot = find(name)
    model = cases.model(size, source, getattr(torch, dtype), depth).to(device)
    model.requires_grad_(False)  # as in the proof: DLPack exports no tensor that requires one
    kernel = adapted(slot, *candidate) if candidate else None
    return {"": (whole(model, slot, kernel), "torch")}


def adapted(
    slot: Slot,
    function: Function,
    arrays: str,
    takes_out: bool,
    prepare: Function | None = None,
    shapes: dict[str, list[int]] | None = None,
) -> Function:
    """A candidate as a function of tensors that returns what our own does.

    Its weights are prepared in the first call that has them. Calls that are not of its shapes get
    our own function.
    """
    known: dict[Any, list[Tensor]] = {}  # by the shapes of the arguments: what ours returns

    def new_outs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        shapes = (a.shape if isinstance(a, Tensor) else a for a in args)
        key = (*shapes, *kwargs.values())
        if key not in known:
            known[key] = slot.results(Case("", args, kwargs))
        return [torch.empty_like(out) for out in known[key]]

    numpy = arrays == "numpy"
    taken = read_only if numpy else lambda x: x
    with_prepared = preparing(slot, prepare, taken) if prepare else lambda args: args
    sizes = checked(slot, shapes or {})

    def call(*args: Any, **kwargs: Any) -> Any:
        if not fits(slot, Case("", args, kwargs), sizes):
            return slot.ours(*args, **kwargs)
        given = map(taken, with_prepared(args))
        if takes_out:
            outs: list[Any] = new_outs(args, kwargs)
            outs = [out.numpy() for out in outs] if numpy else outs
            kwargs["out"] = outs if len(outs) > 1 else outs[0]
        result = function(*given, **kwargs)
        if takes_out and result is None:
            result = kwargs["out"]
        if not numpy:
            return result
        tensors = [torch.from_numpy(out) for out in as_list(result)]
        return tensors if isinstance(result, (tuple, list)) else tensors[0]

    return call


def read_only(x: Any) -> Any:
    """A tensor as an array that cannot be written to; anything else as it is."""
    if isinstance(x, Tensor):
        x = x.numpy()
        x.flags.writeable = False
    return x


def preparing(slot: Slot, prepare: Function, taken: Function) -> Function:
    """What puts prepared weights in the place of the weights, each set prepared only once.

    taken: a tensor as the kernel takes it.
    """
    known: dict[tuple[int, ...], tuple[Any, ...]] = {}  # by identity: the weights, and of them

    def with_prepared(args: tuple[Any, ...]) -> tuple[Any, ...]:
        weights = args[1 : 1 + slot.weights]
        key = tuple(map(id, weights))
        if key not in known:
            known[key] = weights, prepare(*map(taken, weights))
        return args[0], known[key][1], *args[1 + slot.weights :]

    return with_prepared


def whole(model: WhisperEncoder, slot: Slot, kernel: Function | None) -> Function:
    """Features (B, M, F), or for a slot of the front end audio (B, L), to L + 1 hidden states."""
    replaced = slot.installed(model, kernel)

    def run(given: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad(), ops.using(**replaced):
            mel = features(given, slot, kernel, model.config.n_mels) if slot.front_end else given
            states = model(mel, output_hidden_states=True).hidden_states
        assert states is not None
        return (mel, *states) if slot.front_end else states

    return run


def features(audio: Tensor, slot: Slot, kernel: Function | None, n_mels: int) -> Tensor:
    """Audio (1, L) to features (1, M, F), a step of them, or all, by the kernel."""
    with melfront.using(**{slot.name: kernel or slot.reference}):
        out: Tensor = melfront.log_mel(audio[0], n_mels=n_mels)
    return out[None]  # (1, M, F)


# --- in our process -------------------------------------------------------------------------------


def clip(slot: Slot, model: WhisperEncoder) -> Tensor:
    """The sample as the whole run takes it: audio (1, L) or features (1, M, F)."""
    sample = cases.clips()[0]
    if slot.front_end:
        return sample[None]
    return melfront.log_mel(sample, n_mels=model.config.n_mels)[None].to(model.positions.dtype)


def of_shapes(slot: Slot, model: WhisperEncoder, shapes: Shapes) -> tuple[int, int]:
    """How many of the slot's calls have these shapes, and how many there are."""
    seen: list[bool] = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append(fits(slot, Case("", args, kwargs), shapes))
        return slot.ours(*args, **kwargs)

    whole(copy.deepcopy(model), slot, spy)(clip(slot, model))  # a slot may change the model
    return sum(seen), len(seen)


@dataclass
class Whole:
    """What came of it."""

    what: str  # in words
    names: list[str]  # of the hidden states
    noise: list[float]  # of each, in units of noise
    times: list[Array] = field(default_factory=list)  # seconds of the candidate and of ours
    busy: str = ""  # why the times say nothing, if others used the machine
    floors: list[float] = field(default_factory=list)  # of each state: the unit of its noise

    def ratio(self) -> tuple[float, float, float]:
        """Our time over the candidate's, between the ends of its 95 % interval."""
        return ratio_interval(self.times[1], self.times[0], 0.95)

    def unclear(self) -> bool:
        """Whether the machine was too busy for the ratio to say anything."""
        low, _, high = self.ratio()
        return bool(self.busy) or not high / low <= TOO_BUSY**2


def run_whole(
    candidate: Sandbox,
    ours: Sandbox,
    slot: Slot,
    model: WhisperEncoder,
    case: Case,
    dice: Dice,
    what: str,
) -> Whole:
    """Measure every hidden state. Raises Refused if one is wrong."""
    run = whole(model, slot, None)
    shapes = [out.contiguous() for out in run(*case.args)]
    for child in (candidate, ours):
        child.case(case, shapes)
    first = dice.vary(case)
    for child in (candidate, ours):  # so that both are warm
        child.write(first)
        child.call()
    candidate.check_untouched(first)
    # Worked out after the call: until then nobody knows the answer.
    states = truth(model, slot, first.args[0])
    standard = Standard(
        first, list(states.values()), [out.contiguous() for out in run(*first.args)]
    )
    errors = standard.errors(candidate.copied)
    for name, error in zip(states, errors, strict=True):
        if error.verdict == measure.WRONG:
            raise Refused("WHOLE", f"in its place, {name} is {error.noise:.3g} x noise")
    return Whole(what, list(states), [e.noise for e in errors], floors=standard.floors)


def race_of_wholes(
    candidate: Sandbox,
    ours: Sandbox,
    case: Case,
    dice: Dice,
    known: Whole,
    seconds: float,
    least: int = LEAST_ROUNDS,
) -> Race:
    """Times of the candidate and of ours. Raises Refused for all that `fair.race` refuses, and if
    a hidden state differs too much from ours.
    """

    def right(content: Case, _copy: int) -> float:
        """Ours works on the candidate's contents, when those can be of no more use to it."""
        mine = candidate.copied
        candidate.check_untouched(content)
        ours.write(content)
        ours.look = True
        ours.call()
        apart = [
            measure.rms((a.float() - b.float()).numpy()) / floor
            for a, b, floor in zip(mine, ours.copied, known.floors, strict=True)
        ]
        for state, times_noise in zip(known.names, apart, strict=True):
            if not times_noise <= measure.NOISY_LIMIT:
                raise Refused(
                    "TIMED",
                    f"in its place and timed, {state} is {times_noise:.3g} x noise from ours",
                )
        return max(apart)

    heat = Heat({"": (candidate, ""), REFERENCE: (ours, "")}, right, case, dice)
    heat.run(0, 1, 1)
    heat.run(seconds, least, MOST_ROUNDS, counts=True)
    race = heat.result(ours)
    guard.fair(race, REFERENCE, REFERENCE)
    return race


def truth(model: WhisperEncoder, slot: Slot, given: Tensor) -> dict[str, Array]:
    """The same states from the oracles, by name: float64, with a batch axis of one."""
    mel = given[0].double().numpy()
    if slot.front_end:
        mel = melfront.oracle.log_mel(mel, n_mels=model.config.n_mels)
    n_layer = model.config.n_audio_layer
    names = [hidden_state(i, n_layer) for i in range(n_layer + 1)]
    states: dict[str, Array] = {"features": mel[None]} if slot.front_end else {}

    def keep(stage: str, tensor: Array) -> Array:  # no others: attention weights alone fill memory
        if stage in names:
            states[stage] = tensor[None]
        return tensor

    oracle.encode(mel, model.state_dict(), model.config, keep)
    return states
