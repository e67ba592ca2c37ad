"""Compare somebody's stage tensors with the truth: the first wrong stage, and the mistake."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from melfront.conventions import HOP_LENGTH, SAMPLE_RATE

from .. import noise as measure
from .. import stages
from ..diagnosis.diagnose import Case, diagnose
from ..files.fit import fit
from ..files.sampling import sample_positions
from ..files.tensors import Array, Dump, ParityError, Tensor, as_tensor, read
from ..noise import MISSING, PASS, SHAPE, WRONG
from ..pipeline import Subject
from ..resolve import first_window, resolve
from .report import Report, StageResult

# A reference that brings no floors - somebody else's tensors - is taken to be this exact, in ulp of
# float32: what two float32 implementations typically differ by.
REFERENCE_ULP = 16.0
FIXED = "give what the reference expects, or leave it out"
FEW = 3  # frames that are missing because they are not centred, or one too many


def compare(
    mine: Mapping[str, Any] | str | os.PathLike[str],
    reference: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    audio: Any = None,
    model: Any = None,
    n_mels: int | None = None,
    convention: Any = None,
    pad_to: Any = "default",
    check_range: bool = True,
    forced: bool = False,
) -> Report:
    """Judge stage tensors by the noise of their type, and name the mistake in the first wrong one.

    mine: stage name to array or tensor, or the path of an .npz, .safetensors, or folder of .npy.
    reference: the same, as truth; without it the truth is computed by the float64 oracle for the
        clip and model given here or named in the file's metadata (default: the sample clip).
    audio: a file, an array, or a batch. model: a WhisperEncoder, or what `--model` takes.
    check_range: as of `melfront.log_mel`.
    forced: each stage's truth is computed from the candidate's own stages before it, which tells
        an op that is wrong from one that inherits an error.

    Raises ParityError (a ValueError) for what cannot be compared. Returns a Report.
    """
    given = load(mine)
    held = load(reference) if reference is not None else None
    subject = resolve(given, held, audio, model, n_mels, convention, pad_to, check_range)
    given, held = first_window(given, subject), held and first_window(held, subject)
    return compare_with(subject, given, held, forced)


def compare_with(
    subject: Subject, given: Dump, held: Dump | None = None, forced: bool = False
) -> Report:
    """`compare`, for a subject that is known and may have been compared with before."""
    names = stages.canonical(list(given.tensors), subject.n_layer)
    if names.get("mel") == "features" and is_power(given.tensors["mel"].values):
        names["mel"] = "mel"
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
        if result.verdict == SHAPE and subject.audio is not None:
            notes = advice(subject, stage, values.shape, truth[stage].shape)
            # No option gives a reference another shape.
            result.notes += (FIXED,) if notes and held else notes
        results.append(result)
        error = result.noise if np.isfinite(result.noise) else math.inf
        kind = tensor.dtype
        cases[stage] = Case(subject, stage, values, truth[stage], floor, kind, error, passed)
        if result.verdict == PASS:
            passed = stage
    results += [StageResult(name, MISSING, notes=("not given",)) for name in missing]
    report = Report(results, forced=forced, about=about)
    wrong = report.first_wrong
    if wrong is not None:
        report.lacking = lacking(subject, wrong, given)
        if not report.lacking:
            report.diagnosis = diagnose(of_its_length(cases[wrong.name]))
    return report


def is_power(values: Array) -> bool:
    """Is what somebody calls `mel` the power before the logarithm, and not features?

    Features reach below 0, unless a clip is taken for far too loud: then they span a factor of 2.
    """
    return bool(values.size and 0 <= values.min() < values.max() / 100)


def of_its_length(case: Case) -> Case:
    """The case, but where a few frames are missing, of a window that is shorter by as many.

    Frames that are not centred end before the window does.
    """
    subject, frames = case.subject, case.values.shape[-1:]
    short = subject.length // HOP_LENGTH - (frames[0] if frames else 0)
    if not 0 < short <= FEW or "F" not in stages.find(case.stage).shape[-1:]:
        return case
    shorter = replace(subject, pad_to=frames[0] * HOP_LENGTH / SAMPLE_RATE)
    return case._replace(subject=shorter, truth=shorter.front_end_truth[case.stage])


def advice(
    subject: Subject, stage: str, given: tuple[int, ...], expected: tuple[int, ...]
) -> tuple[str, ...]:
    """What to ask for if a tensor only has another number of frames, or of mel bins."""
    letters = stages.find(stage).shape
    if len(given) != len(expected):
        return ()
    unlike = [axis - len(given) for axis, n in enumerate(given) if n != expected[axis]]
    if len(unlike) != 1 or -unlike[0] > len(letters) or not given[unlike[0]]:
        return ()
    letter, frames = letters[unlike[0]], given[unlike[0]]
    if letter == "M":
        return (f"for {frames} bins pass --n-mels {frames}, or a --model that has as many",)
    if letter != "F" or abs(frames - expected[unlike[0]]) <= FEW:  # that is a mistake, with a name
        return ()
    clip = max(len(clip) for clip in subject.clips.arrays)
    if abs(frames - clip // HOP_LENGTH) <= 1:
        return ("the clip's own length: pass --pad-to none, and port the padding to 30 s too",)
    seconds = frames * HOP_LENGTH / SAMPLE_RATE
    hop, rest = divmod(subject.length, frames)
    notes = [f"{frames} frames are {seconds:g} s: pass --pad-to {seconds:g} if that is meant"]
    if not rest and hop >= HOP_LENGTH // 4:
        notes.append(f"a hop of {hop} samples gives as many")
    return tuple(notes)


def lacking(subject: Subject, wrong: StageResult, given: Dump) -> str:
    """What the catalogue lacks to be run: the whole tensor, the clip, the model, or nothing."""
    if wrong.name in given.sampled:
        return "only a sample of it is given"
    if subject.audio is None:
        return "the clip is not here, pass it with --audio"
    if subject.model is None and wrong.name not in stages.front_end_names():
        return "the model is not here, pass it with --model"
    return ""


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
    notes = fitted.notes
    if error.verdict == WRONG and (fitted.values == fitted.values.flat[0]).all():
        notes += (f"every value is {fitted.values.flat[0]:g}",)
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
        notes,
        floor,
        measure.rms(truth),
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
