"""A kernel in its place: the encoder or the front end run with it, end to end.

A kernel that is right by itself may still do harm: its error in each block may grow from one to the
next. So each hidden state is measured against float64, in units of the noise that our own encoder
has at the same depth.

    # B batch  M mel bins  F frames  L samples  T positions  S state
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import melfront
from melfront.conventions import N_SAMPLES
from melfront.encoder import WhisperEncoder, ops, oracle
from melfront.parity import noise as measure
from melfront.parity.files.names import hidden_state

from ...race import TOO_BUSY, ratio_interval, rounds
from ..proof import cases
from ..proof.verdict import Standard
from ..reasons import Refused
from ..sandbox.parent import Sandbox
from ..slots import find
from ..slots.base import Array, Function, Slot, as_list
from ..slots.front_end import constants, framed
from ..slots.inputs import Case, Dice
from .fair import steady

LEAST_ROUNDS, MOST_ROUNDS = 3, 15


# --- in the worker's process ----------------------------------------------------------------------


def functions(
    candidate: tuple[Function, str, bool] | None,
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
    kernel = adapted(slot, *candidate) if candidate else None
    return {"": (whole(model, slot, kernel), "torch")}


def adapted(slot: Slot, function: Function, arrays: str, takes_out: bool) -> Function:
    """A candidate as a function of tensors that returns what our own does."""
    known: dict[Any, list[Tensor]] = {}  # by the shapes of the arguments: what ours returns

    def new_outs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        shapes = (a.shape if isinstance(a, Tensor) else a for a in args)
        key = (*shapes, *kwargs.values())
        if key not in known:
            known[key] = slot.results(Case("", args, kwargs))
        return [torch.empty_like(out) for out in known[key]]

    def read_only(x: Any) -> Any:
        if isinstance(x, Tensor):
            x = x.numpy()
            x.flags.writeable = False
        return x

    def call(*args: Any, **kwargs: Any) -> Any:
        numpy = arrays == "numpy"
        given = map(read_only, args) if numpy else args
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
    """Audio (1, L) to features (1, M, F), step by step, one of them the kernel's."""
    function = kernel or slot.reference
    if not slot.stages:
        out: Tensor = function(audio, n_mels=n_mels)
        return out
    steps = [find(name) for name in ("stft", "mel", "log_scale")]
    stft, mel, log_scale = (function if s.name == slot.name else s.reference for s in steps)
    window, filters = (t.to(audio.device) for t in constants(n_mels))
    padded = torch.cat([audio[0], audio.new_zeros(N_SAMPLES - audio.shape[1])])
    power = stft(framed(padded), window)  # (F, K)
    scaled: Tensor = log_scale(mel(power, filters))
    return scaled[None]  # (1, M, F)


# --- in our process -------------------------------------------------------------------------------


@dataclass
class Whole:
    """What came of it."""

    what: str  # in words
    names: list[str]  # of the hidden states
    noise: list[float]  # of each, in units of noise
    times: list[Array] = field(default_factory=list)  # seconds of the candidate and of ours

    def ratio(self) -> float:
        return float(np.median(self.times[1]) / np.median(self.times[0]))

    def unclear(self) -> bool:
        """Whether the machine was too busy for the ratio to say anything."""
        low, high = ratio_interval(self.times[1], self.times[0], 0.99)
        return not high / low <= TOO_BUSY**2


def run_whole(
    candidate: Sandbox,
    ours: Sandbox,
    slot: Slot,
    model: WhisperEncoder,
    dice: Dice,
    what: str,
    seconds: float | None,
) -> Whole:
    """Measure every hidden state, and time the whole for so many seconds unless that is None.

    Raises Refused if a state is wrong.
    """
    sample = cases.clips()[0]
    n_mels = model.config.n_mels
    given = sample[None] if slot.front_end else melfront.log_mel(sample, n_mels=n_mels)[None]
    case = Case("whole", (given.to(dice.dtype),))
    run = whole(model, slot, None)
    form = [out.contiguous() for out in run(*case.args)]
    for child in (candidate, ours):
        child.case(case, form)
    first = dice.vary(case)
    candidate.write(first)
    candidate.call()
    # Worked out when the kernel has answered: before that it is nowhere, not even in our memory.
    states = truth(model, slot, first.args[0])
    outs = [out.contiguous() for out in run(*first.args)]
    standard = Standard(first, list(states.values()), outs)
    errors = standard.errors(candidate.copied)
    for name, error in zip(states, errors, strict=True):
        if error.verdict == measure.WRONG:
            raise Refused("WHOLE", f"in its place, {name} is {error.noise:.3g} x noise")
    result = Whole(what, list(states), [error.noise for error in errors])
    if seconds is not None:
        floors = dict(zip(states, standard.floors, strict=True))
        result.times = race_of_wholes(candidate, ours, case, dice, floors, seconds)
    return result


def race_of_wholes(
    candidate: Sandbox,
    ours: Sandbox,
    case: Case,
    dice: Dice,
    floors: dict[str, float],
    seconds: float,
) -> list[Array]:
    """Times of the candidate and of ours. Raises Refused if a state differs too much from ours."""
    children = {"candidate": candidate, "ours": ours}
    times: dict[str, list[float]] = {name: [] for name in children}
    chance = random.Random(dice.below(1 << 30))
    with steady():
        for order in rounds(children, seconds, LEAST_ROUNDS, MOST_ROUNDS, chance):
            given = dice.vary(case)
            for name in order:
                children[name].write(given)
                times[name].append(children[name].call().time)
            for (state, floor), mine, theirs in zip(
                floors.items(), candidate.copied, ours.copied, strict=True
            ):
                apart = measure.rms((mine.float() - theirs.float()).numpy()) / floor
                if not apart <= measure.NOISY_LIMIT:
                    raise Refused(
                        "TIMED", f"in its place and timed, {state} is {apart:.3g} x noise from ours"
                    )
    return [np.array(spent) for spent in times.values()]


def truth(model: WhisperEncoder, slot: Slot, given: Tensor) -> dict[str, Array]:
    """The same states from the oracles, by name: float64, with a batch axis of one."""
    mel = given[0].double().numpy()
    if slot.front_end:
        mel = melfront.oracle.log_mel(mel, n_mels=model.config.n_mels)
    stages = oracle.trace(mel, model.state_dict(), model.config)
    n_layer = model.config.n_audio_layer
    names = [hidden_state(i, n_layer) for i in range(n_layer + 1)]
    states: dict[str, Array] = {name: stages[name][None] for name in names}
    return {"features": mel[None], **states} if slot.front_end else states
