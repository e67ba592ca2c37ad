"""Name the mistake: run the catalogue, and see which entry gives the candidate's own numbers.

An entry fits if the candidate is as near to it as a right port is to the truth. Where the truth
is far away, a candidate noisier than ours still fits the entry that it is thirty times nearer to;
and two mistakes at once are named only where they come so much nearer than any one alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped]  # as in encoder/__main__.py

from encoder import EncoderConfig, WhisperEncoder, ops
from encoder.model import Tap
from melfront.command import PROGRESS
from melfront.conventions import Convention

from .. import mistakes, stages
from .. import noise as measure
from ..files.fit import fit
from ..files.tensors import Array
from ..mistakes import ADDED_BIAS, RESHAPED, EncoderMistake, FrontEndMistake
from ..mistakes.misread import misread
from ..pipeline import Subject, run_model
from .few_frames import SERVES, Screen

Entry = FrontEndMistake | EncoderMistake
NEARER = 30.0  # times nearer than the truth, for a candidate noisier than ours
SMALL = 100.0  # what was given is at least this many times its noise
TINY = 2.0**-126  # the smallest normal float32
MOST = 10.0  # the nearest is worth a word if it leaves less than a part in so many
N_SCREENED = 12  # of many entries or pairs tried on a few frames, those that are computed whole


class Named(NamedTuple):
    """A mistake, or two made at once, that gives the candidate's numbers."""

    entries: tuple[Entry, ...]
    residual: float  # what is left, in units of noise, once it is assumed
    without: float  # what is left without it - for two at once, with the best one alone

    @property
    def name(self) -> str:
        return " + ".join(entry.name for entry in self.entries)


class Case(NamedTuple):
    """The candidate's tensor of the first wrong stage, and what is known of the stages before."""

    subject: Subject
    stage: str
    values: Array  # in our layout, or, with another shape, as given
    truth: Array
    floor: float
    dtype: str
    error: float  # in units of noise, against the truth; infinite for another shape
    passed: str | None  # the last stage before it that passed


class Diagnosis(NamedTuple):
    named: list[Named]  # best first; entries that cannot be told apart stand side by side
    nearest: Named | None  # if none fits
    telling: str | None  # the stage that would tell those entries apart
    right: bool = False  # float64 gives the same: the shape is wrong, or the reference


def diagnose(case: Case) -> Diagnosis:
    """Which known mistakes explain the candidate."""
    front = stages.front_end_names()
    if np.isnan(case.values).any() or (case.stage in front and not np.isfinite(case.values).all()):
        return Diagnosis([], None, None)  # only an attention mask gives infinities
    apart = [named for named in beside_the_pipeline(case) if fits(case, named, noisier=False)]
    if apart:
        return Diagnosis(apart, None, None)
    if case.stage in front:
        # Next to nothing is near to whatever a mistake makes small: that is no evidence for it.
        floor = max(min(case.floor, measure.rms(case.values) / SMALL), TINY)
        as_it_is = residual(case, case.subject.front_end_truth[case.stage])
        case = case._replace(floor=floor, error=min(case.error * case.floor / floor, as_it_is))
        if as_it_is <= measure.PASS_LIMIT[case.dtype]:
            return Diagnosis([], None, None, right=True)
        tried = front_end(case)
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
    # A constant is near to anything.
    varied = case.values.size and (case.values != case.values.flat[0]).any()
    worth = not named and tried and varied
    nearest = tried[0] if worth and MOST * tried[0].residual < case.error else None
    return Diagnosis(named, nearest, telling_stage(case, named) if len(named) > 1 else None)


def fits(case: Case, named: Named, noisier: bool) -> bool:
    """Is what is left noise? With `noisier`, also that of a port noisier than ours."""
    limit = measure.PASS_LIMIT[case.dtype]
    if named.residual <= limit:
        return named.without >= 2 * named.residual
    return (
        noisier
        and named.residual <= measure.NOISY_LIMIT * limit
        and named.without >= NEARER * named.residual
    )


def residual(case: Case, variant: Array) -> float:
    """rms of candidate less variant, in units of noise; infinite for another shape.

    What a mistake makes larger than the truth has more noise by as much.
    """
    values = case.values
    if values.shape != variant.shape:
        fitted = fit(values, case.stage, variant.shape, np.iscomplexobj(variant))
        if not fitted.fits:
            return float("inf")
        values = fitted.values
    with np.errstate(invalid="ignore"):
        distance = measure.widen(values) - variant
    distance[values == variant] = 0  # infinities too: a mask's
    larger = measure.rms(variant) / max(measure.rms(case.truth), TINY)
    unit = case.floor * (max(1.0, larger) if np.isfinite(larger) else 1.0)
    noise = measure.rms(distance) / unit
    return noise if np.isfinite(noise) else float("inf")


def possible(case: Case, entry: Entry, order: list[str]) -> bool:
    """Could this entry have spoilt this stage, with what passed before it?"""
    if order.index(entry.stage) > order.index(case.stage):
        return False
    return case.passed not in order or order.index(entry.stage) > order.index(case.passed)


def beside_the_pipeline(case: Case) -> Iterator[Named]:
    """Mistakes that no run of the pipeline shows: made of the truth itself."""
    truth = case.truth
    if truth.ndim >= 2 and truth.shape[-1] != truth.shape[-2]:
        rows, columns = truth.shape[-2:]
        for variant in (
            truth.swapaxes(-1, -2).reshape(truth.shape),
            truth.reshape(*truth.shape[:-2], columns, rows).swapaxes(-1, -2),
        ):
            yield Named((RESHAPED,), residual(case, variant), case.error)
    if case.stage.endswith("attn.k") and case.values.shape == truth.shape:
        bias = (case.values - truth).mean(axis=-2, keepdims=True)
        yield Named((ADDED_BIAS,), residual(case, truth + bias), case.error)


# --- front end ------------------------------------------------------------------------------------


def front_end(case: Case) -> list[Named]:
    """Front-end mistakes run as far as the stage in question; if none fits alone, two at once."""
    base, order = case.subject.convention, stages.front_end_names()
    screen = Screen(case.subject, case.stage, case.values) if case.stage in SERVES else None
    entries = [entry for entry in mistakes.FRONT_END if possible(case, entry, order)]
    alone = [((entry,), entry.convention(base)) for entry in entries]
    tried = nearest(case, screen, alone, case.error)
    for entry, clip in misread(case.subject):
        features = replace(case.subject, audio=clip).front_end(upto=case.stage)
        tried.append(Named((entry,), residual(case, features[case.stage]), case.error))
    if screen and not any(fits(case, named, noisier=False) for named in tried):
        two = [(pair, both(base, pair)) for pair in combinations(entries, 2)]
        best = min(named.residual for named in tried)
        tried += nearest(case, screen, [(p, c) for p, c in two if c], min(best, case.error))
    return tried


def nearest(
    case: Case,
    screen: Screen | None,
    made: Sequence[tuple[tuple[Entry, ...], Convention]],
    without: float,
) -> list[Named]:
    """These conventions on all frames; with a screen, only those that may fit, and the nearest."""
    if screen:
        distances = [screen.distance_to(convention) for _, convention in made]
        ranked = np.argsort(distances, kind="stable")[:N_SCREENED]
        far = measure.NOISY_LIMIT * measure.PASS_LIMIT[case.dtype] * case.floor  # nothing fits
        kept = [i for i in ranked if screen.least(made[i][1], distances[i]) <= far]
        made = [made[i] for i in kept or ranked[:1]]
    return [
        Named(entries, residual(case, case.subject.front_end(c, case.stage)[case.stage]), without)
        for entries, c in made
    ]


def both(base: Convention, pair: tuple[FrontEndMistake, FrontEndMistake]) -> Convention | None:
    """The convention with both mistakes, or None if they change the same decision."""
    first, second = (dict(entry.change) for entry in pair)
    if set(first) & set(second):
        return None
    return replace(base, name=f"{pair[0].name} + {pair[1].name}", **first, **second)


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
    for entry in shown(mistakes.ENCODER):
        if entry.stage in order and possible(case, entry, order):
            yield Named((entry,), residual(case, run_with(case, entry, mel)), case.error)


def shown(entries: Sequence[Entry]) -> Iterable[Any]:
    """The entries, with a bar for who waits at a terminal: each is a run of the whole encoder."""
    return tqdm(entries, desc="mistakes", unit="", **PROGRESS)


AS_IT_IS = EncoderMistake("none", "", "nothing is changed")


def run_with(case: Case, entry: EncoderMistake, mel: torch.Tensor) -> Array:
    """The stage in question of the model with a mistake made; empty where it cannot run."""
    model, n_audio = case.subject.needed_model(), case.subject.n_audio
    batch = mel if mel.ndim == 3 else mel[None]
    if case.stage == "ln_post" and not entry.rewrite:  # without a tap nothing is computed beside it
        result = mistakes.run(entry, model, batch, n_audio=n_audio).double().numpy()
        return result if mel.ndim == 3 else result[0]

    def runner(model: WhisperEncoder, mel: torch.Tensor, tap: Tap) -> None:
        mistakes.run(entry, model, mel, tap, n_audio)

    # For a tap the model makes scores and weights beside `attention`, which never holds them.
    idle: dict[str, Callable[..., object]] = {"scores": lambda q, k: q, "softmax": lambda x: x}
    if case.stage.endswith(("scores", "weights")) or entry.ops:
        idle = {}
    with ops.using(**idle):
        return run_model(model, mel, {case.stage}, runner).get(case.stage, np.empty(0))


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
        values = values if subject.clips.batched else values[0]
        yield Named((entry,), residual(case, values), case.error)


def through_encoder(case: Case) -> Iterator[Named]:
    """Every front-end mistake, seen through the right encoder."""
    subject = case.subject
    truth = subject.front_end_truth["features"]
    for entry in shown(mistakes.FRONT_END):
        features = subject.front_end(entry.convention(subject.convention))["features"]
        if features.shape == truth.shape and not np.array_equal(features, truth):
            mel = torch.from_numpy(features).float()
            yield Named((entry,), residual(case, run_with(case, AS_IT_IS, mel)), case.error)


# --- entries that look the same -------------------------------------------------------------------


def telling_stage(case: Case, named: Iterable[Named]) -> str | None:
    """The first front-end stage at which entries that fit alike differ; None if none is known."""
    traces = []
    for entry in (n.entries[0] for n in named):
        if not isinstance(entry, FrontEndMistake):
            return None
        traces.append(case.subject.front_end(entry.convention(case.subject.convention)))
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
