"""The cases that a kernel is proved on: what the encoder feeds it on speech.

Captured cases are the arguments that a slot gets while the encoder runs on the sample clip: with
trained weights if a model is named, else with formula weights, whose outlier channels and large
biases are like those of trained ones. What breaks kernels is in `edges.py`.

    # B batch  M mel bins  F frames  K frequencies  N n_fft  T positions  S state  H heads
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import melfront
from encoder import SIZES, EncoderConfig, WhisperEncoder, ops
from melfront import oracle as front
from melfront.conventions import HOP_LENGTH, N_FFT, TRANSFORMERS

from ..slots.base import SLOTS
from ..slots.functions import BLOCK_WEIGHTS

SAMPLE = Path(__file__).resolve().parents[3] / "reference_data" / "sample.flac"
DEPTH = 2  # blocks that are run to capture: the first and one that has another before it
POOL = 1 << 23  # numbers that varied contents are made from
LARGE = 1 << 24  # elements: a batch of two is left out where it would be larger


@dataclass
class Case:
    """Arguments of one call. `vary` says how to make others like them, at the same addresses:

    "scale" every value by up to 5 %, "add" 5 % of a standard deviation, "bits" zeros and ones.
    """

    label: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    vary: str = "scale"
    seen: bool = False  # of a shape that the encoder has
    timed: bool = False
    exact: bool = False  # nothing is rounded, so nothing may be wrong

    def tensors(self) -> list[Tensor]:
        return [a for a in self.args if isinstance(a, Tensor)]

    def shape(self) -> str:
        return " x ".join(map(str, self.args[0].shape))


class Dice:
    """Random numbers of one run, all from its seed."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.pool = torch.rand(POOL, generator=self.generator) * 2 - 1
        self.dtype = dtype

    def below(self, n: int) -> int:
        return int(torch.randint(n, (), generator=self.generator))

    def prime(self, *candidates: int) -> int:
        return candidates[self.below(len(candidates))]

    def normal(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        x = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return (x * std + mean).to(self.dtype)

    def bits(self, *shape: int) -> Tensor:
        return (torch.rand(shape, generator=self.generator) < 0.5).to(self.dtype)

    def noise(self, n: int) -> Tensor:
        """n numbers in -1 .. 1, cut from the pool at a place that nobody can guess."""
        pieces, have = [], 0
        while have < n:
            start = self.below(POOL // 2)
            pieces.append(self.pool[start : start + min(n - have, POOL // 2)])
            have += len(pieces[-1])
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def vary(self, case: Case) -> Case:
        """The same case with other contents: same shapes, same strides, same scale."""
        args = [self.varied(a, case.vary) if isinstance(a, Tensor) else a for a in case.args]
        return replace(case, args=tuple(args))

    def varied(self, tensor: Tensor, how: str) -> Tensor:
        n = 1 + sum((d - 1) * s for d, s in zip(tensor.shape, tensor.stride(), strict=True))
        base = tensor.as_strided((n,), (1,))  # with what lies between the elements
        noise = self.noise(n)
        if how == "bits":
            made = (noise > 0).to(tensor.dtype)
        elif how == "add":
            made = (base + 0.05 * float(tensor.float().std()) * noise).to(tensor.dtype)
        else:
            made = (base * (1 + 0.05 * noise)).to(tensor.dtype)
        return made.as_strided(tensor.shape, tensor.stride())


# --- captured -------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def clips() -> list[Tensor]:
    """Two clips: the sample, and it again from its middle, a tenth as loud."""
    sample = torch.from_numpy(melfront.load_audio(SAMPLE))
    return [sample, 0.1 * sample.roll(len(sample) // 2)]


@lru_cache(maxsize=2)
def model(size: str, source: str | None, dtype: torch.dtype, depth: int | None) -> WhisperEncoder:
    """Trained weights from `source`, else formula weights of a size, cut to `depth` blocks."""
    if source:
        whole = WhisperEncoder.from_pretrained(source, dtype=dtype)
        if depth is None or depth >= whole.config.n_audio_layer:
            return whole
        config = replace(whole.config, n_audio_layer=depth)
        kept = {
            n: w
            for n, w in whole.state_dict().items()
            if not n.startswith("blocks.") or int(n.split(".")[1]) < depth
        }
        return WhisperEncoder.from_weights(config, kept)
    return WhisperEncoder.from_formula(config_of(size, depth), dtype=dtype)


def config_of(size: str, depth: int | None) -> EncoderConfig:
    config = SIZES[size]
    return replace(config, n_audio_layer=min(depth or config.n_audio_layer, config.n_audio_layer))


@lru_cache(maxsize=4)
def calls(slot: str, size: str, source: str | None, dtype: torch.dtype) -> list[Any]:
    """(args, kwargs) of every call of a slot while two clips go through the encoder."""
    seen: list[Any] = []
    encoder = model(size, source, dtype, DEPTH)
    features = torch.stack([melfront.log_mel(c, n_mels=encoder.config.n_mels) for c in clips()])
    watched = {"conv1d_gelu": "conv1d"}.get(slot, slot)
    with torch.no_grad():
        if slot == "block":
            for layer in encoder.blocks:
                weights = layer.state_dict()
                fixed = (*(weights[n] for n in BLOCK_WEIGHTS), encoder.config.n_audio_head)
                layer.register_forward_pre_hook(
                    lambda _m, args, fixed=fixed: seen.append(((args[0], *fixed), {}))
                )
            encoder(features.to(dtype))
            for layer in encoder.blocks:
                layer._forward_pre_hooks.clear()
            return seen
        original = getattr(ops.Ops(), watched)

        def spy(*args: Any, **kwargs: Any) -> Any:
            seen.append((args, kwargs))
            return original(*args, **kwargs)

        slots: dict[str, Callable[..., Any]] = {watched: spy}
        if watched in ("softmax", "scores"):
            slots["attention"] = ops.explicit_attention
        with ops.using(**slots):
            encoder(features.to(dtype))
    return seen


def captured(slot: str, size: str, source: str | None, dtype: torch.dtype) -> list[Case]:
    """One case for each shape that the encoder calls the slot with, and a batch of two."""
    if SLOTS[slot].front_end:
        return captured_front_end(slot, config_of(size, None).n_mels, dtype)
    latest = {}  # the deepest call of each shape
    for args, kwargs in calls(slot, size, source, dtype):
        tensors = [a for a in args if isinstance(a, Tensor)]
        key = (*(tuple(t.shape) for t in tensors), str(kwargs))
        latest[key] = (args, kwargs)
    cases = []
    for args, kwargs in list(latest.values())[:3]:
        x = args[0]
        # The first argument has the batch; so have k and v of attention, and no weight does.
        whole = [a.shape == x.shape if isinstance(a, Tensor) else False for a in args]
        one = tuple(a[:1] if w else a for a, w in zip(args, whole, strict=True))
        cases.append(Case("speech", one, kwargs, seen=True, timed=True))
    args, kwargs = next(iter(latest.values()))
    if args[0].numel() <= LARGE:
        cases.append(Case("speech, batch of 2", args, kwargs, seen=True, timed=True))
    return cases


def captured_front_end(slot: str, n_mels: int, dtype: torch.dtype) -> list[Case]:
    """The same for the front end: frames that hear the clip, as the package computes them."""
    sample, other = clips()
    window, filters = constants(n_mels)
    if slot == "log_mel":
        args: list[tuple[Any, ...]] = [(sample,), (torch.stack([sample, other]),)]
        return [
            Case(label, a, {"n_mels": n_mels}, seen=True, timed=True)
            for label, a in zip(("speech", "speech, batch of 2"), args, strict=True)
        ]
    both = torch.stack([framed(sample), framed(other)])  # (B, F, N)
    power = SLOTS["stft"].reference(both, window)  # (B, F, K)
    if slot == "stft":
        one, two = (framed(sample), window), (both, window)
    elif slot == "mel":
        one, two = (power[0], filters), (power, filters)
    else:
        energy = filters @ power.mT  # (B, M, F)
        one, two = (energy[0],), (energy,)  # type: ignore[assignment]  # one argument or two
    return [
        Case("speech", one, seen=True, timed=True),
        Case("speech, batch of 2", two, seen=True, timed=True),
    ]


def constants(n_mels: int) -> tuple[Tensor, Tensor]:
    """The window (N,) and the filters (M, K), float32."""
    window, bank = front.window(TRANSFORMERS), front.filters(TRANSFORMERS, n_mels)
    return torch.tensor(window, dtype=torch.float32), torch.tensor(bank, dtype=torch.float32)


def framed(clip: Tensor) -> Tensor:
    """The frames of a clip, reflected at its edges: (L,) -> (F, N), a view with overlaps."""
    half = N_FFT // 2
    padded = torch.cat([clip[1 : half + 1].flip(0), clip, clip[-half - 1 : -1].flip(0)])
    return padded.unfold(0, N_FFT, HOP_LENGTH)[:-1]
