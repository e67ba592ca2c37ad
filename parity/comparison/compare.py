"""Compare a port's stage tensors with the truth: the first wrong stage, and the mistake."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..arithmetic.hidden import hidden
from ..files.tensors import Dump, collect, read
from ..noise import UNITS
from ..pipeline import Pipeline
from ..resolve import DEFAULT, resolve
from ..stages import ParityError, Stage
from .accept import Accept, accept_up_to, accepted_units
from .fewer_bits import add_costs
from .judging import Compared, judge_all
from .naming import look, named_mistakes
from .printed import check_printed
from .reports.repeat import as_call
from .reports.report import Report

Source = Mapping[str, Any] | str | os.PathLike[str]


def compare(
    mine: Source,
    reference: Source | None = None,
    *,
    audio: Any = None,
    model: Any = None,
    n_mels: int | None = None,
    convention: Any = None,
    pad_to: Any = DEFAULT,
    check_range: bool = True,
    forced: bool = False,
    computed_in: str | None = None,
    quantised: str | None = None,
    accept: Accept = None,
) -> Report:
    """Judge stage tensors by the noise of their type, and name the mistake in the first wrong one.

    mine: stage name to array or tensor, or the path of an .npz, .safetensors, .npy or folder of
        .npy, of raw float32 (.bin, .f32), of .txt, .csv or .json, or of a list of printed values.
        float16, bfloat16, float32 or float64; of the shapes that `melfront parity stages` lists,
        or with a batch axis of 1, transposed, or with the heads apart.
    reference: the same, as truth; without it the truth is computed by the float64 oracle for the
        clip and model given here or named in the file's metadata (default: the sample clip).
    audio: a file, an array (N,) of samples at 16 kHz, or a list of either for a batch.
    model: a WhisperEncoder, a local folder, a file, a Hub name, or formula:SIZE.
    n_mels, convention, check_range: as of `melfront.log_mel`.
    pad_to: seconds that the clip is padded to; None for its own length (default: 30).
    forced: each stage's truth is computed from the candidate's own stages before it, which tells
        an op that is wrong from one that inherits an error.
    computed_in: what the encoder's products round their factors to, though the tensors are
        float32: float16, bfloat16, tf32, or q8_0, int8, int8-tensor for activations. The unit of
        noise is then the error of a right port that does so. None: found where every wrong stage
        is off by just that; "float32": nothing of that kind is right.
    quantised: what the weights are stored in, such as q8_0 (`arithmetic.kinds.STORED`): the truth
        is computed with such weights. None: found, and then called QUANTISED; "none": not right.
    accept: units of noise up to which a stage that is off on purpose is ACCEPTED: a number, a
        mapping of stage to number, or the path of a JSON file that holds one.

    Raises ParityError (a ValueError) for what cannot be compared. Returns a Report.
    """
    arguments = dict(locals())
    given = load(mine)
    held = load(reference) if reference is not None else None
    options = (audio, model, n_mels, convention, pad_to, check_range)
    pipeline, staged, staged_held = resolve(given, held, *options)
    pipeline = pipeline.in_fewer_bits(computed_in, quantised)
    report = compare_with(pipeline, staged, staged_held, forced, accept)
    report.repeat = as_call("parity.compare", compare, arguments)
    return report


def compare_with(
    pipeline: Pipeline,
    given: Dump[Stage],
    held: Dump[Stage] | None = None,
    forced: bool = False,
    accept: Accept = None,
) -> Report:
    """`compare`, with a pipeline that may have been compared with before."""
    if not given.tensors:
        raise ParityError("no tensors were given")
    check_printed(given, held, forced)
    units = accepted_units(accept, given.tensors, pipeline.n_layer)

    def again(pipeline: Pipeline) -> Compared:
        judged = judge_all(pipeline, given, held, forced)
        accept_up_to(judged.report, units)
        add_costs(judged)
        return judged

    computed_here = held is None and not forced
    judged = named_mistakes(again(pipeline), given, again if computed_here else None)
    look(judged)
    report = judged.report
    if report.ok:
        few = {stage.name: stage.floor for stage in report.stages if stage.unit not in ("", *UNITS)}
        report.hidden = hidden(judged.pipeline, few)
    return report


def load(source: Source) -> Dump[str]:
    if isinstance(source, Mapping):
        return collect(source.items(), "what was given")
    return read(source)
