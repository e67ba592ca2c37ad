"""Compare somebody's stage tensors with the truth: the first wrong stage, and the mistake."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from melfront.conventions import HOP_LENGTH, SAMPLE_RATE

from . import measure, stages
from .diagnose import Case, Diagnosis, diagnose
from .layout import fit
from .measure import MISSING, NOISY, PASS, SHAPE, WRONG
from .sampling import sample_positions
from .subject import resolve
from .tensors import Array, Dump, ParityError, Tensor, as_tensor, read
from .truth import Subject

# A reference that brings no floors - somebody else's tensors - is taken to be this exact, in ulp of
# float32: what two float32 implementations typically differ by.
REFERENCE_ULP = 16.0


@dataclass
class StageResult:
    """One stage of the report. Errors are NaN where there was nothing to measure."""

    name: str
    verdict: str
    noise: float = float("nan")
    max_abs: float = float("nan")
    worst: str = ""  # where the largest error is, in words
    bad: str = ""  # how many frames or positions are bad
    dtype: str = "float32"
    notes: tuple[str, ...] = ()
    floor: float = float("nan")  # one unit of noise
    # For the picture: the error of each frame or position, and |candidate - truth|.
    steps: Array | None = field(default=None, repr=False)
    distance: Array | None = field(default=None, repr=False)

    def line(self, width: int) -> str:
        if self.verdict in (SHAPE, MISSING):
            return f"{self.name:{width}}  {self.verdict:7}  {'; '.join(self.notes)}"
        notes = f"   ({'; '.join(self.notes)})" if self.notes else ""
        where = f"   worst at {self.worst}{self.bad and ', ' + self.bad}" if self.worst else ""
        return (
            f"{self.name:{width}}  {self.verdict:7}  {number(self.noise):>8} x noise   "
            f"max abs {self.max_abs:8.2e}{where}{notes}"
        )


@dataclass
class Report:
    """What `compare` found. `ok` is True if every stage given passes."""

    stages: list[StageResult]
    diagnosis: Diagnosis | None = None
    forced: bool = False
    about: list[str] = field(default_factory=list)  # what was compared with what

    @property
    def first_wrong(self) -> StageResult | None:
        """The first stage that is WRONG or of another SHAPE; failing that, the first NOISY one."""
        for verdicts in ((WRONG, SHAPE), (NOISY,)):
            for stage in self.stages:
                if stage.verdict in verdicts:
                    return stage
        return None

    @property
    def ok(self) -> bool:
        return self.first_wrong is None

    def headline(self) -> str:
        wrong = self.first_wrong
        if wrong is None:
            given = [stage for stage in self.stages if stage.verdict != MISSING]
            worst = max((stage.noise for stage in given), default=0.0)
            what = f"all {len(given)} stages" if len(given) > 1 else given[0].name
            return f"{what} PASS, at most {number(worst)} x noise"
        if wrong.verdict == SHAPE:
            size = ""
        elif np.isnan(wrong.noise):
            size = f"   NaN or infinity at {wrong.worst or 'a sampled position'}"
        else:
            size = f"   {number(wrong.noise)} x {wrong.dtype} noise"
        return f"{wrong.name}  {wrong.verdict}{size}   {self.suspicion()}"

    def suspicion(self) -> str:
        found = self.diagnosis
        if found is None:
            return "not diagnosed"
        if not found.named:
            if found.nearest is None:
                return "none of the known mistakes"
            near = found.nearest
            return (
                "none of the known mistakes fits; the nearest, "
                f"{near.name!r}, leaves {number(near.residual)} x noise"
            )
        best = found.named[0]
        if len(best.entries) > 1:
            both = "; and ".join(f"{e.name}: {e.sentence}" for e in best.entries)
            return f"looks like two mistakes at once: {both}"
        text = " - or ".join(f"{n.name}: {n.entries[0].sentence}" for n in found.named)
        if found.telling:
            text += f" (the stage {found.telling} would tell them apart)"
        return f"looks like: {text}"

    def __str__(self) -> str:
        given = [stage for stage in self.stages if stage.verdict != MISSING]
        width = max((len(stage.name) for stage in given), default=0)
        lines = [*self.about, *(stage.line(width) for stage in given)]
        missing = len(self.stages) - len(given)
        if missing:
            lines.append(f"{missing} stages of the reference are MISSING from what was given")
        seen = [
            entry.seen
            for n in (self.diagnosis.named if self.diagnosis else ())
            for entry in n.entries
        ]
        lines += ["", self.headline(), *(f"  seen in: {where}" for where in seen if where)]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The report as one JSON object; what is not finite is null."""
        named = self.diagnosis.named if self.diagnosis else []
        wrong = self.first_wrong
        nearest = self.diagnosis.nearest if self.diagnosis else None
        return json.dumps(
            {
                "stages": [
                    {
                        "name": s.name,
                        "verdict": s.verdict,
                        "noise": finite(s.noise),
                        "max_abs": finite(s.max_abs),
                        "worst": s.worst,
                        "notes": list(s.notes),
                    }
                    for s in self.stages
                ],
                "first_wrong": wrong.name if wrong else None,
                "mistakes": [
                    {
                        "name": entry.name,
                        "sentence": entry.sentence,
                        "residual": finite(n.residual),
                        "together_with": [e.name for e in n.entries if e is not entry],
                    }
                    for n in named
                    for entry in n.entries
                ],
                "nearest": nearest and {"name": nearest.name, "residual": finite(nearest.residual)},
                "telling_stage": self.diagnosis.telling if self.diagnosis else None,
            },
            allow_nan=False,
        )


def compare(
    mine: Mapping[str, Any] | str | os.PathLike[str],
    reference: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    audio: Any = None,
    model: Any = None,
    n_mels: int | None = None,
    convention: Any = None,
    pad_to: Any = "default",
    forced: bool = False,
) -> Report:
    """Judge stage tensors by the noise of their type, and name the mistake in the first wrong one.

    mine: stage name to array or tensor, or the path of an .npz, .safetensors, or folder of .npy.
    reference: the same, as truth; without it the truth is computed by the float64 oracle for the
        clip and model given here or named in the file's metadata (default: the sample clip).
    audio: a file, an array, or a batch. model: a WhisperEncoder, or what `--model` takes.
    forced: each stage's truth is computed from the candidate's own stages before it, which tells
        an op that is wrong from one that inherits an error.

    Raises ParityError (a ValueError) for what cannot be compared. Returns a Report.
    """
    given = load(mine)
    held = load(reference) if reference is not None else None
    subject = resolve(given, held, audio, model, n_mels, convention, pad_to)
    return compare_with(subject, given, held, forced)


def compare_with(
    subject: Subject, given: Dump, held: Dump | None = None, forced: bool = False
) -> Report:
    """`compare`, for a subject that is known and may have been compared with before."""
    names = stages.canonical(list(given.tensors), subject.n_layer)
    tensors = {stage: given.tensors[name] for name, stage in names.items()}
    order = stages.front_end_names() + stages.encoder_names(subject.n_layer or 0)
    beyond = [name for name, stage in names.items() if stage not in order]
    if beyond:  # only where nothing says how many blocks there are
        raise ParityError(f"{beyond[0]} needs the model that it is of: pass --model")
    tensors = {stage: tensors[stage] for stage in order if stage in tensors}
    if not tensors:
        raise ParityError("no tensors were given")

    if forced and held is not None:
        raise ParityError("forced, each stage's truth is computed: leave the REFERENCE out")
    if forced and given.sampled:
        raise ParityError("forced, a stage is computed from the one before it: not from a sample")
    about = [subject.describe()]
    if held is not None:
        truth, floors, missing = from_reference(held, subject, tensors)
        floors |= floors_in_16_bits(subject, held, truth, tensors)
    elif forced:
        truth, missing = forced_truth(subject, tensors), []
        far = [stage for stage in tensors if not set(inputs(stage, order)) <= set(tensors)]
        floors = port_floors(subject, free_truth(subject, far), tensors)
    else:
        truth, missing = free_truth(subject, list(tensors)), []
        floors = port_floors(subject, truth, tensors)
    results, cases = [], {}
    passed = None
    for stage, tensor in tensors.items():
        if stage not in truth:
            raise ParityError(f"the reference has no stage {stage}, which was given")
        least = measure.least_floor(truth[stage], tensor.dtype)
        floor = max(floors.get(stage, 0.0), least)
        sampled = (given.sampled.get(stage), held.sampled.get(stage) if held else None)
        result, values = judge(stage, tensor, truth[stage], floor, *sampled)
        results.append(result)
        cases[stage] = Case(subject, stage, values, floor, tensor.dtype, result.noise, passed)
        if result.verdict == PASS:
            passed = stage
    results += [StageResult(name, MISSING, notes=("not given",)) for name in missing]
    report = Report(results, forced=forced, about=about)
    wrong = report.first_wrong
    if wrong is not None and can_diagnose(subject, wrong, given):
        report.diagnosis = diagnose(cases[wrong.name])
    return report


def can_diagnose(subject: Subject, wrong: StageResult, given: Dump) -> bool:
    """Is there all that the catalogue needs to be run: the whole tensor, the clip, the model?"""
    if wrong.name in given.sampled or subject.audio is None:
        return False
    return subject.model is not None or wrong.name in stages.front_end_names()


def load(source: Mapping[str, Any] | str | os.PathLike[str]) -> Dump:
    if isinstance(source, Mapping):
        return Dump({name: as_tensor(v, name) for name, v in source.items()}, {})
    return read(source)


def judge(
    stage: str,
    tensor: Tensor,
    truth: Array,
    floor: float,
    sampled: tuple[int, ...] | None,
    truth_sampled: tuple[int, ...] | None,
) -> tuple[StageResult, Array]:
    """The verdict on one stage, and its values in our layout.

    `sampled` and `truth_sampled` are the whole shapes of what is given as a sample only.
    """
    if sampled or truth_sampled:
        return judge_sample(stage, tensor, truth, floor, sampled, truth_sampled), tensor.values
    fitted = fit(tensor.values, stage, truth.shape, np.iscomplexobj(truth))
    if not fitted.fits:
        note = f"shape {tensor.values.shape}, expected {truth.shape}"
        return StageResult(
            stage, SHAPE, dtype=tensor.dtype, notes=(note, *fitted.notes)
        ), fitted.values
    error = measure.error(fitted.values, truth, floor, tensor.dtype)
    axis = stages.find(stage).step
    extra = truth.ndim - len(stages.find(stage).shape)
    steps, bad = None, ""
    if axis is not None and truth.size:
        steps = measure.step_errors(fitted.values, truth, axis + extra)
        count = int(np.sum(~(steps <= measure.BAD_STEP * floor)))
        what = "frames" if "F" in stages.find(stage).shape else "positions"
        bad = f"{count} of {len(steps)} {what} bad"
    with np.errstate(invalid="ignore"):
        distance = np.abs(measure.widen(fitted.values) - truth)
    return StageResult(
        stage,
        error.verdict,
        error.noise,
        error.max_abs,
        place(stage, error.worst, truth.ndim),
        bad,
        tensor.dtype,
        fitted.notes,
        floor,
        steps,
        distance,
    ), fitted.values


def judge_sample(
    stage: str,
    tensor: Tensor,
    truth: Array,
    floor: float,
    sampled: tuple[int, ...] | None,
    truth_sampled: tuple[int, ...] | None,
) -> StageResult:
    """The verdict on the sampled positions of a stage: of the candidate, the truth, or both."""
    values = tensor.values
    if sampled is None:
        values = as_pairs(values)
    if truth_sampled is None:
        truth = as_pairs(truth)
    shape = truth_sampled or truth.shape
    if sampled is None:
        values = fit(values, stage, shape).values
    if (sampled or values.shape) != shape:
        note = f"shape {sampled or values.shape}, expected {shape}"
        return StageResult(stage, SHAPE, dtype=tensor.dtype, notes=(note,))
    positions = sample_positions(stage, int(np.prod(shape)))
    mine = values if sampled else values.reshape(-1)[positions]
    theirs = truth if truth_sampled else truth.reshape(-1)[positions]
    error = measure.error(mine, theirs, floor, tensor.dtype)
    note = f"{len(positions)} sampled positions"
    return StageResult(
        stage, error.verdict, error.noise, error.max_abs, dtype=tensor.dtype, notes=(note,)
    )


def as_pairs(x: Array) -> Array:
    """Complex (...) to real (..., 2), which is what samples are taken of."""
    return np.stack([x.real, x.imag], axis=-1) if np.iscomplexobj(x) else x


AXES = {
    "F": "frame",
    "T": "position",
    "M": "mel",
    "K": "bin",
    "N": "sample",
    "S": "channel",
    "H": "head",
    "A": "channel",
    "L + N": "sample",
}


def place(stage: str, index: tuple[int, ...], ndim: int) -> str:
    """An index in words: `mel 3, frame 0, 0.00 s`."""
    letters = stages.find(stage).shape
    names = ["clip"] * (ndim - len(letters)) + [AXES[letter] for letter in letters]
    if names[-2:] == ["position", "position"]:
        names[-2:] = ["query", "key"]
    words = [f"{name} {i}" for name, i in zip(names, index, strict=False)]
    for name, i in zip(names, index, strict=False):
        if name in ("frame", "position", "query"):
            hop = HOP_LENGTH if name == "frame" else 2 * HOP_LENGTH
            words.append(f"{i * hop / SAMPLE_RATE:.2f} s")
            break
    return ", ".join(words)


def free_truth(subject: Subject, wanted: list[str]) -> dict[str, Array]:
    """The oracle's tensors of these stages, each computed from the oracle's own."""
    front = set(stages.front_end_names())
    truth = {name: subject.front_end_truth[name] for name in wanted if name in front}
    if set(wanted) - front:
        truth |= subject.encoder_truth(set(wanted) - front)
    return truth


def forced_truth(subject: Subject, tensors: dict[str, Tensor]) -> dict[str, Array]:
    """What the oracle makes of each stage from the candidate's own stages before it."""
    truth: dict[str, Array] = {}

    def force(stage: str, tensor: Array) -> Array:
        if stage not in tensors:
            return tensor
        truth[stage] = tensor
        mine = fit(tensors[stage].values, stage, tensor.shape, np.iscomplexobj(tensor))
        return measure.widen(mine.values) if mine.fits else tensor

    if subject.clips.batched:
        raise ParityError("forced comparison takes one clip; given a batch")
    subject.run(force, encoder=any(name not in stages.front_end_names() for name in tensors))
    return truth


def inputs(stage: str, order: list[str]) -> list[str]:
    """What the stage is a single step away from, and more: its own part, and the end of the last.

    The parts are the front end, the stem, each block, and the final norm.
    """
    before = order[: order.index(stage)]
    own = [name for name in before if part(name) == part(stage)]
    return before[len(before) - len(own) - 1 :] if len(own) < len(before) else own


def part(stage: str) -> str:
    block = re.match(r"block\.\d+\.", stage)
    if block or stage == "ln_post":
        return block[0] if block else stage
    return "front end" if stage in stages.front_end_names() else "stem"


def port_floors(
    subject: Subject,
    truth: dict[str, Array],
    tensors: dict[str, Tensor],
    view: Callable[[str, Array], Array] = lambda _, tensor: tensor,
) -> dict[str, float]:
    """The noise of a right port, each stage in its tensor's type: one run for each type."""
    floors: dict[str, float] = {}
    for dtype in {tensors[stage].dtype for stage in truth}:
        of_type = {stage: t for stage, t in truth.items() if tensors[stage].dtype == dtype}
        floors |= subject.floors(of_type, dtype, view)
    return floors


def floors_in_16_bits(
    subject: Subject, held: Dump, truth: dict[str, Array], tensors: dict[str, Tensor]
) -> dict[str, float]:
    """The noise of a right port in 16 bits: a reference publishes that of float32 alone.

    Empty where the clip or the model is not here to run one.
    """

    def view(stage: str, tensor: Array) -> Array:
        if stage not in held.sampled:
            return tensor
        flat = as_pairs(tensor).reshape(-1)
        return np.asarray(flat[sample_positions(stage, flat.size)])

    runs = set(order_of(subject)) if subject.audio is not None else set()
    narrow = [s for s, t in tensors.items() if t.dtype in ("float16", "bfloat16")]
    wanted = {stage: truth[stage] for stage in narrow if stage in truth and stage in runs}
    return port_floors(subject, wanted, tensors, view)


def order_of(subject: Subject) -> list[str]:
    """The stages that can be computed."""
    front = stages.front_end_names()
    if subject.model is None:
        return front
    return front + stages.encoder_names(subject.model.config.n_audio_layer)


def from_reference(
    held: Dump, subject: Subject, tensors: dict[str, Tensor]
) -> tuple[dict[str, Array], dict[str, float], list[str]]:
    """The truth, the floors that the reference publishes, and the stages of it that are missing."""
    names = stages.canonical(list(held.tensors), subject.n_layer)
    truth = {stage: measure.widen(held.tensors[name].values) for name, stage in names.items()}
    floors = held.floors
    for stage, values in truth.items():
        if stage == "spectrum" and not np.iscomplexobj(values) and stage not in held.sampled:
            truth[stage] = values[..., 0] + 1j * values[..., 1]
            if stage in floors:  # of a real or imaginary part; both together are larger
                floors[stage] *= math.sqrt(2)
    for stage, values in truth.items():
        default = REFERENCE_ULP / measure.LEAST_ULP["float32"] * measure.least_floor(values)
        floors.setdefault(stage, default)
    return truth, floors, [stage for stage in truth if stage not in tensors]


def number(x: float) -> str:
    """Three digits: 0.87, 12.3, 8.1e4."""
    if not np.isfinite(x):
        return str(x)
    if x >= 1000:
        mantissa, exponent = f"{x:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{x:.3g}"


def finite(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None
