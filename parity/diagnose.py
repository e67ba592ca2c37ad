"""Name the mistake: run the catalogue, and see which entry gives the candidate's own numbers.

An entry fits if the candidate is as near to it as a right port is to the truth. Where the truth
is far away, a candidate noisier than ours still fits the entry that it is thirty times nearer to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch

from encoder import EncoderConfig, WhisperEncoder
from melfront import oracle
from melfront.conventions import HOP_LENGTH, Convention

from . import measure, mistakes, stages
from .layout import fit
from .mistakes import EncoderMistake, FrontEndMistake
from .tensors import Array
from .truth import Subject, run_model

Entry = FrontEndMistake | EncoderMistake
NEARER = 30.0  # times nearer than the truth, for a candidate noisier than ours
N_SCREENED = 12  # of many entries or pairs tried on a few frames, those that are computed whole


class Named(NamedTuple):
    """A mistake, or two made at once, that gives the candidate's numbers."""

    entries: tuple[Entry, ...]
    residual: float  # what is left, in units of noise, once it is assumed

    @property
    def name(self) -> str:
        return " + ".join(entry.name for entry in self.entries)


class Case(NamedTuple):
    """The candidate's tensor of the first wrong stage, and what is known of the stages before."""

    subject: Subject
    stage: str
    values: Array  # in our layout, or, with another shape, as given
    floor: float
    dtype: str
    error: float  # in units of noise, against the truth; NaN for another shape
    passed: str | None  # the last stage before it that passed


class Diagnosis(NamedTuple):
    named: list[Named]  # best first; entries that cannot be told apart stand side by side
    nearest: Named | None  # if none fits
    telling: str | None  # the stage that would tell those entries apart


def diagnose(case: Case) -> Diagnosis:
    """Which known mistakes explain the candidate."""
    front = stages.front_end_names()
    if np.isnan(case.values).any() or (case.stage in front and not np.isfinite(case.values).all()):
        return Diagnosis([], None, None)  # only an attention mask gives infinities
    tried: list[Named] = []
    if case.stage in front:
        screen = Screen(case) if Screen.serves(case) else None
        tried = list(front_end(case, screen))
        if screen and not any(fits(case, named, noisier=False) for named in tried):
            tried += list(pairs(case, screen))
    else:
        tried = list(in_encoder(case))
        if case.passed is None and not any(fits(case, named, noisier=True) for named in tried):
            tried += list(through_encoder(case))
    tried.sort(key=lambda named: named.residual)
    named = [n for n in tried if fits(case, n, noisier=False)] or [
        n for n in tried if fits(case, n, noisier=True)
    ]
    # Of those that fit, keep what the numbers cannot tell from the best.
    named = [n for n in named if n.residual <= max(2 * named[0].residual, 1.0)]
    if case.stage not in front and case.passed:
        # What would have spoilt an earlier stage was made in this block only, which is rarer.
        order = stages.encoder_names(case.subject.needed_model().config.n_audio_layer)
        named = [n for n in named if possible(case, n.entries[0], order)] or named
    if len({len(n.entries) for n in named}) > 1:
        named = [n for n in named if len(n.entries) == 1]
    nearest = tried[0] if tried and not named and np.isfinite(tried[0].residual) else None
    return Diagnosis(named, nearest, telling_stage(case, named) if len(named) > 1 else None)


def fits(case: Case, named: Named, noisier: bool) -> bool:
    """Is what is left noise? With `noisier`, also that of a port noisier than ours."""
    limit = measure.PASS_LIMIT[case.dtype]
    if named.residual <= limit:
        return not case.error < 2 * named.residual  # NaN, another shape, counts as far away
    return (
        noisier
        and named.residual <= measure.NOISY_LIMIT * limit
        and case.error >= NEARER * named.residual
    )


def residual(case: Case, variant: Array) -> float:
    """rms of candidate less variant, in units of noise; infinite for another shape."""
    values = case.values
    if values.shape != variant.shape:
        fitted = fit(values, case.stage, variant.shape, np.iscomplexobj(variant))
        if not fitted.fits:
            return float("inf")
        values = fitted.values
    with np.errstate(invalid="ignore"):
        distance = measure.widen(values) - variant
    distance[values == variant] = 0  # infinities too: a mask's
    noise = measure.rms(distance) / case.floor
    return noise if np.isfinite(noise) else float("inf")


def possible(case: Case, entry: Entry, order: list[str]) -> bool:
    """Could this entry have spoilt this stage, with what passed before it?"""
    if order.index(entry.stage) > order.index(case.stage):
        return False
    return case.passed not in order or order.index(entry.stage) > order.index(case.passed)


# --- front end ------------------------------------------------------------------------------------


def front_end(case: Case, screen: Screen | None) -> Iterator[Named]:
    """Every front-end mistake alone, run as far as the stage in question.

    With a screen, those are run whole that are nearest on its frames.
    """
    entries = possible_front_end(case)
    if screen:
        entries.sort(key=lambda entry: screen.distance_to(entry.convention(screen.base)))
        entries = entries[:N_SCREENED]
    for entry in entries:
        yield whole(case, (entry,), entry.convention(case.subject.convention))


def pairs(case: Case, screen: Screen) -> Iterator[Named]:
    """Two front-end mistakes at once: all pairs on a few frames, the nearest ones whole."""
    made = [(pair, both(screen.base, pair)) for pair in combinations(possible_front_end(case), 2)]
    ranked = [(screen.distance_to(c), i) for i, (_, c) in enumerate(made) if c]
    for _, i in sorted(ranked)[:N_SCREENED]:
        pair, convention = made[i]
        yield whole(case, pair, convention)


def possible_front_end(case: Case) -> list[FrontEndMistake]:
    order = stages.front_end_names()
    return [entry for entry in mistakes.FRONT_END if possible(case, entry, order)]


def whole(case: Case, entries: tuple[Entry, ...], convention: Convention | None) -> Named:
    variant = case.subject.front_end(convention, upto=case.stage)[case.stage]
    return Named(entries, residual(case, variant))


def both(base: Convention, pair: tuple[FrontEndMistake, FrontEndMistake]) -> Convention | None:
    """The convention with both mistakes, or None if they change the same decision."""
    first, second = (dict(entry.change) for entry in pair)
    if set(first) & set(second):
        return None
    return replace(base, name=f"{pair[0].name} + {pair[1].name}", **first, **second)


# The decisions that each stage adds to those before it: stages that agree in them are the same.
DECISIONS = {
    "padded": (
        "gain",
        "preemphasis",
        "normalize",
        "pad_side",
        "extra_padding",
        "n_fft",
        "frame_start",
        "pad_mode",
        "edges_first",
    ),
    "power": (
        "hop_length",
        "drop",
        "win_length",
        "window",
        "periodic",
        "power",
        "spectrum_scale",
        "spectrum_part",
        "folded",
    ),
    "mel": (
        "f_min",
        "f_max",
        "filter_rate",
        "mel_scale",
        "mel_norm",
        "bin_shift",
        "flip_mels",
        "mel_mantissa",
    ),
    "log": ("log_base", "log_factor", "log_floor", "floor_added"),
    "clamped": ("max_scope", "fixed_max", "dynamic_range"),
    "features": ("offset", "divisor", "fill"),
}


class Screen:
    """The pipeline on a few frames of one clip; stages that conventions share are computed once.

    The frames are the edges, the clip's end, the loudest ones - so that the maximum is among them
    - and some of the rest.
    """

    @staticmethod
    def serves(case: Case) -> bool:
        """Can it be asked about this stage? It knows single clips, from the power on."""
        return case.stage in list(DECISIONS)[1:] and not case.subject.clips.batched

    def __init__(self, case: Case) -> None:
        self.case = case
        subject = case.subject
        self.base = subject.convention
        self.n_frames = subject.length // HOP_LENGTH
        (self.clip,) = subject.clips.arrays
        self.end = len(self.clip) // HOP_LENGTH
        loudest = np.argsort(subject.front_end_truth["log"].max(axis=0))[-16:]
        chosen = [*range(3), *range(self.end - 2, self.end + 3), self.n_frames - 1, *loudest]
        chosen += range(0, self.n_frames, max(1, self.n_frames // 32))
        self.frames = np.unique(np.clip(chosen, 0, self.n_frames - 1))
        self.done: dict[tuple[Any, ...], Array] = {}

    def stage(self, name: str, c: Convention) -> Array:
        """A stage of the chosen frames under a convention."""
        names = list(DECISIONS)
        place = names.index(name)
        key = (name, *(getattr(c, f) for n in names[: place + 1] for f in DECISIONS[n]))
        if key not in self.done:
            before = self.stage(names[place - 1], c) if place else np.empty(0)
            self.done[key] = self.compute(name, before, c)
        return self.done[key]

    def compute(self, name: str, x: Array, c: Convention) -> Array:
        if name == "padded":
            total = self.case.subject.length + c.extra_padding
            return oracle.pad(oracle.condition(self.clip, c), total, c)
        if name == "power":
            every = oracle.frames(x, c)
            # A frame too many comes last: it may hold the maximum.
            frames = every[[*self.frames, *range(self.n_frames, len(every))]]
            return oracle.power(oracle.spectrum(frames * oracle.window(c), c), c)
        if name == "mel":
            return oracle.mel(x, c, self.case.subject.n_mels)
        if name == "log":
            return oracle.log(x, c)
        if name == "clamped":
            return oracle.clamp(x, c)[:, : len(self.frames)]
        x = oracle.scale(x, replace(c, output_mean=None))
        return x if c.fill is None else np.where(self.frames >= self.end, c.fill, x)

    def count(self, c: Convention) -> int:
        """How many frames this convention has at the stage in question."""
        late = self.case.stage in ("clamped", "features")
        keeps = c.drop is None or (c.drop == "last_after_max" and not late)
        if c.fill is not None and self.case.stage == "features":
            return self.n_frames
        return (self.case.subject.length + c.extra_padding) // c.hop_length + keeps

    def distance_to(self, c: Convention) -> float:
        """rms distance of the candidate from this convention on the chosen frames."""
        values = self.case.values
        axis = 0 if self.case.stage == "power" else 1
        if values.ndim != 2 or values.shape[axis] != self.count(c):
            return float("inf")
        chosen = values.take(self.frames, axis=axis)
        variant = self.stage(self.case.stage, c).take(range(len(self.frames)), axis=axis)
        if chosen.shape != variant.shape:
            return float("inf")
        if c.output_mean and self.case.stage == "features":
            # Normalised over all frames, of which few are here: compare what is left of each if
            # mean and variance of the few are taken off both.
            axes = -1 if c.output_mean == "bin" else None
            chosen, variant = standard(chosen, axes), standard(variant, axes)
        distance = measure.rms(chosen - variant)
        return distance if np.isfinite(distance) else float("inf")


def standard(x: Array, axes: int | None) -> Array:
    """x less its mean, over its standard deviation."""
    centred = x - x.mean(axis=axes, keepdims=True)
    return np.asarray(centred / (centred.std(axis=axes, keepdims=True) + 1e-5))


# --- encoder --------------------------------------------------------------------------------------


def in_encoder(case: Case) -> Iterator[Named]:
    """Every encoder mistake alone: in the whole model, or in one block if its input is right."""
    model = case.subject.needed_model()
    order = stages.encoder_names(model.config.n_audio_layer)
    block = block_of(case.stage, model.config.n_audio_layer)
    if (
        block is not None
        and case.passed
        and order.index(case.passed) >= order.index(input_of(block))
    ):
        yield from in_one_block(case, block)
        return
    mel = torch.from_numpy(case.subject.front_end_truth["features"]).float()
    for entry in mistakes.ENCODER:
        if entry.stage in order and possible(case, entry, order):
            yield Named((entry,), residual(case, run_entry(case, entry, model, mel, case.stage)))


def run_entry(
    case: Case, entry: EncoderMistake, model: WhisperEncoder, mel: torch.Tensor, stage: str
) -> Array:
    """The stage of the model with the mistake made; an empty array where it cannot run."""

    def runner(model: WhisperEncoder, mel: torch.Tensor, tap: Callable[..., Any]) -> None:
        mistakes.run(entry, model, mel, tap, case.subject.n_audio)

    if stage == "ln_post" and not entry.rewrite:  # without a tap nothing is computed beside it
        with torch.no_grad():
            batch = mel if mel.ndim == 3 else mel[None]
            result = mistakes.run(entry, model, batch, n_audio=case.subject.n_audio)
        values = result.double().numpy()
        return values if mel.ndim == 3 else values[0]
    return run_model(model, mel, {stage}, runner).get(stage, np.empty(0))


def block_of(stage: str, n_layer: int) -> int | None:
    """The number of the stage's block; the final norm counts with the last one."""
    found = re.match(r"block\.(\d+)\.", stage)
    last = n_layer - 1 if stage == "ln_post" else None
    return int(found[1]) if found else last


def input_of(block: int) -> str:
    return f"block.{block - 1}.mlp_residual" if block else "positions"


STEM = [stage.name for stage in stages.STEM]


def alone(config: EncoderConfig, weights: dict[str, torch.Tensor], block: int) -> WhisperEncoder:
    """An encoder whose only block is this one."""
    prefix = f"blocks.{block}."
    kept = {
        name.replace(prefix, "blocks.0."): w
        for name, w in weights.items()
        if name.startswith(prefix) or not name.startswith("blocks.")
    }
    return WhisperEncoder.from_weights(replace(config, n_audio_layer=1), kept)


def in_one_block(case: Case, block: int) -> Iterator[Named]:
    """The mistakes of a block, made in one block whose input is the truth's."""
    subject = case.subject
    whole = subject.needed_model()
    weights = dict(whole.state_dict())
    model = alone(whole.config, weights, block)
    truth = subject.encoder_truth({input_of(block)}, upto=input_of(block))[input_of(block)]
    start = torch.from_numpy(truth).float()
    start = start if start.ndim == 3 else start[None]
    stage = re.sub(r"^block\.\d+", "block.0", case.stage)
    passed = re.sub(r"^block\.\d+", "block.0", case.passed or "")
    order = stages.encoder_names(1)
    within = block_of(case.passed or "", whole.config.n_audio_layer) == block
    after = order.index(passed) if passed in order and within else -1
    mel = torch.zeros(len(start), whole.config.n_mels, whole.config.n_frames)
    for entry in mistakes.ENCODER:
        spoils = re.sub(r"^block\.\d+", "block.0", entry.stage)
        if order.index(spoils) > order.index(stage):
            continue
        if spoils in STEM:
            # GELU and the types of the weights are the blocks' too; what else the stem does is not.
            if not entry.weights and not set(entry.ops) - {"conv1d"}:
                continue
        elif order.index(spoils) <= after:
            continue
        seen: dict[str, Array] = {}

        def tap(name: str, tensor: torch.Tensor, seen: dict[str, Array] = seen) -> torch.Tensor:
            if name == "positions":
                return start
            if name == stage:
                seen[name] = tensor.double().numpy()
            return tensor

        # The tap replaces the block's input, so the rewrites have to see the replaced one.
        if entry.weights:  # which may take another block's
            changed = alone(whole.config, entry.weights(weights), block)
            mistakes.run(replace(entry, weights=None), changed, mel, tap, subject.n_audio)
        else:
            mistakes.run(entry, model, mel, tap, subject.n_audio)
        values = seen.get(stage, np.empty(0))
        yield Named((entry,), residual(case, values if subject.clips.batched else values[0]))


def through_encoder(case: Case) -> Iterator[Named]:
    """Every front-end mistake, seen through the right encoder."""
    subject = case.subject
    model = subject.needed_model()
    expected = subject.front_end_truth["features"].shape
    for entry in mistakes.FRONT_END:
        features = subject.front_end(entry.convention(subject.convention))["features"]
        if features.shape == expected:
            mel = torch.from_numpy(features).float()
            yield Named((entry,), residual(case, run_model(model, mel, {case.stage})[case.stage]))


# --- entries that look the same -------------------------------------------------------------------


def telling_stage(case: Case, named: Iterable[Named]) -> str | None:
    """The first front-end stage at which entries that fit alike differ; None if none is known."""
    entries = [n.entries[0] for n in named]
    if not all(isinstance(entry, FrontEndMistake) for entry in entries):
        return None
    traces = [case.subject.front_end(e.convention(case.subject.convention)) for e in entries]  # type: ignore[union-attr]
    for stage in stages.front_end_names():
        first = traces[0][stage]
        least = measure.least_floor(first)
        for other in traces[1:]:
            if (
                other[stage].shape != first.shape
                or not measure.rms(other[stage] - first) <= 2 * least
            ):
                return stage
    return None
