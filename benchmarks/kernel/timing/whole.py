"""A kernel in its place: the encoder or the front end run with it, end to end.

What is right by itself may still add up: an error of every block that the next ones enlarge. So the
hidden states are measured one by one, against float64, in units of the noise that our own encoder
has at the same depth.

    # B batch  M mel bins  F frames  L samples  T positions  S state
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import melfront
from encoder import WhisperEncoder, ops, oracle
from melfront.conventions import N_SAMPLES
from parity import measure
from parity.stages import hidden_state

from ..proof import cases
from ..sandbox.parent import Child, Refused
from ..slots.base import SLOTS
from ..slots.functions import BLOCK_WEIGHTS, Array
from . import fair as timing

Function = Callable[..., Any]


def functions(
    candidate: tuple[Function, str, bool] | None,
    slot: str,
    size: str,
    source: str | None,
    depth: int | None,
    dtype: str,
    device: str,
) -> dict[str, tuple[Function, str]]:
    """What a child serves: the whole run with the candidate in its slot, or with our own."""
    model = cases.model(size, source, getattr(torch, dtype), depth).to(device)
    filling = adapted(slot, *candidate) if candidate else None
    return {"": (whole(model, slot, filling), "torch")}


def adapted(slot: str, function: Function, arrays: str, takes_out: bool) -> Function:
    """A candidate as a function of tensors that returns what our own does."""
    shapes: dict[Any, Any] = {}

    def outs_like(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = tuple(
            tuple(a.shape) if isinstance(a, Tensor) else a for a in (*args, *kwargs.values())
        )
        if key not in shapes:  # what ours returns for these shapes, found out once
            shapes[key] = SLOTS[slot].reference(*args, **kwargs)
        like = shapes[key]
        new = [
            torch.empty_like(t, memory_format=torch.contiguous_format)
            for t in (like if isinstance(like, tuple) else (like,))
        ]
        return new if isinstance(like, tuple) else new[0]

    def as_numpy(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        out = x.numpy()
        out.flags.writeable = False
        return out

    def call(*args: Any, **kwargs: Any) -> Any:
        out = outs_like(args, kwargs) if takes_out else None
        if arrays == "torch":
            result = function(*args, **kwargs, **({"out": out} if takes_out else {}))
            return out if result is None else result
        given = [as_numpy(a) for a in args]
        named = {k: as_numpy(v) for k, v in kwargs.items()}
        if takes_out:
            named["out"] = (
                out.numpy() if isinstance(out, Tensor) else [o.numpy() for o in out or ()]
            )
        result = function(*given, **named)
        if takes_out and result is None:
            return out
        if isinstance(result, (tuple, list)):
            return tuple(torch.from_numpy(r) for r in result)
        return torch.from_numpy(result)

    return call


class Filled(nn.Module):
    """A block whose work is done by somebody's function."""

    def __init__(self, layer: nn.Module, function: Function, n_head: int) -> None:
        super().__init__()
        self.weights = [layer.state_dict()[name] for name in BLOCK_WEIGHTS]
        self.function, self.n_head = function, n_head

    def forward(self, x: Tensor, _tap: Any = None) -> Tensor:
        return self.function(x, *self.weights, self.n_head)


def whole(model: WhisperEncoder, slot: str, filling: Function | None) -> Function:
    """Features (B, M, F), or for a slot of the front end audio (B, L), to L + 1 hidden states."""
    replaced: dict[str, Function] = {}
    if filling and slot == "conv1d_gelu":
        # The stem calls conv1d and then gelu: the kernel does both, and its gelu nothing.
        replaced = {"conv1d": filling, "gelu": lambda x: x, "mlp": own_mlp}
    elif filling and slot == "softmax":
        replaced = {"softmax": filling, "attention": ops.explicit_attention}
    elif filling and slot == "block":
        n_head = model.config.n_audio_head
        model.blocks = nn.ModuleList(Filled(layer, filling, n_head) for layer in model.blocks)
    elif filling and not SLOTS[slot].front_end:
        replaced = {slot: filling}
    if not filling and slot == "softmax":
        replaced = {"attention": ops.explicit_attention}
    elif not filling and not SLOTS[slot].front_end:
        # Any function in a slot turns off the encoder's fast way, which ours is not to have either.
        replaced = {"gelu": lambda x: ops.gelu(x)}

    def run(given: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad(), ops.using(**replaced):
            front = SLOTS[slot].front_end
            mel = features(given, slot, filling, model.config.n_mels) if front else given
            states = model(mel, output_hidden_states=True).hidden_states
        assert states is not None
        return (mel, *states) if front else states

    return run


def own_mlp(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return ops.linear(ops.gelu(ops.linear(x, w1, b1)), w2, b2)


def features(audio: Tensor, slot: str, filling: Function | None, n_mels: int) -> Tensor:
    """Audio (1, L) to features (1, M, F), step by step, with one step replaced."""
    step = {name: s.reference for name, s in SLOTS.items() if s.front_end}
    if filling:
        step[slot] = filling
    if slot == "log_mel":
        return step["log_mel"](audio, n_mels=n_mels)
    window, filters = (t.to(audio.device) for t in cases.constants(n_mels))
    padded = torch.cat([audio[0], audio.new_zeros(N_SAMPLES - audio.shape[1])])
    power = step["stft"](cases.framed(padded), window)  # (F, K)
    return step["log_scale"](step["mel"](power, filters))[None]


# --- the parent's side ----------------------------------------------------------------------------


@dataclass
class Whole:
    """What came of it."""

    what: str  # in words
    names: list[str]  # of the hidden states
    noise: list[float]  # of each, in units of noise
    verdicts: list[str]
    times: list[Array]  # of the candidate and of our own, seconds; empty if not timed

    def ratio(self) -> float:
        return float(np.median(self.times[1]) / np.median(self.times[0]))

    def unclear(self) -> bool:
        """Whether the machine was too busy for the ratio to say anything."""
        low, high = timing.log_ratio(self.times[1], self.times[0])
        return not high - low <= 2 * np.log(timing.TOO_BUSY)


def truth(model: WhisperEncoder, slot: str, given: Tensor) -> list[Array]:
    """The same states from the oracles, float64, with a batch axis of one."""
    kept: dict[str, Array] = {}

    def keep(stage: str, tensor: Array) -> Array:
        kept[stage] = tensor
        return tensor

    front = SLOTS[slot].front_end
    mel = given[0].double().numpy()
    if front:
        mel = melfront.oracle.log_mel(mel, n_mels=model.config.n_mels)
    oracle.encode(mel, model.state_dict(), model.config, keep)
    names = state_names(model)
    return ([mel[None]] if front else []) + [kept[name][None] for name in names]


def state_names(model: WhisperEncoder) -> list[str]:
    n_layer = model.config.n_audio_layer
    return [hidden_state(i, n_layer) for i in range(n_layer + 1)]


def run_whole(
    candidate: Child,
    ours: Child,
    slot: str,
    model: WhisperEncoder,
    dice: cases.Dice,
    what: str,
    timed: bool,
    seconds: float,
) -> Whole:
    """Measure every hidden state, and time the whole. Raises Refused if a state is wrong."""
    sample = cases.clips()[0]
    front = SLOTS[slot].front_end
    given = sample[None] if front else melfront.log_mel(sample, n_mels=model.config.n_mels)[None]
    case = cases.Case("whole", (given.to(dice.dtype),))
    dtype = str(dice.dtype).removeprefix("torch.")
    first = dice.vary(case)
    outs = [o.contiguous() for o in whole(model, slot, None)(*first.args)]
    right = truth(model, slot, first.args[0])
    floors = [
        measure.noise_floor(t, o.float().numpy(), dtype) for t, o in zip(right, outs, strict=True)
    ]
    for child in (candidate, ours):
        child.case(case.args, {}, outs, single=False)
    candidate.write(first.tensors())
    candidate.call()
    errors = [
        measure.error(o.float().numpy(), t, f, dtype)
        for o, t, f in zip(candidate.copied, right, floors, strict=True)
    ]
    names = (["features"] if front else []) + state_names(model)
    result = Whole(what, names, [e.noise for e in errors], [e.verdict for e in errors], [])
    for name, error in zip(names, errors, strict=True):
        if error.verdict == measure.WRONG:
            raise Refused("WHOLE", f"in its place, {name} is {error.noise:.3g} x noise")
    if not timed:
        return result
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    with timing.steady():
        while len(times[0]) < 3 or (len(times[0]) < 15 and time.perf_counter() < end):
            content = dice.vary(case)
            pair = (candidate, ours) if dice.below(2) else (ours, candidate)
            for child in pair:
                child.write(content.tensors())
                times[child is ours].append(child.call().time)
            for name, mine, theirs, floor in zip(
                names, candidate.copied, ours.copied, floors, strict=True
            ):
                apart = measure.rms((mine.float() - theirs.float()).numpy()) / floor
                if not apart <= measure.NOISY_LIMIT:
                    raise Refused(
                        "TIMED", f"in its place and timed, {name} is {apart:.3g} x noise from ours"
                    )
    result.times = [np.array(t) for t in times]
    return result
