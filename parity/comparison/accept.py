"""Differences that a user accepts, in units of noise: for a port that deviates on purpose."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from melfront.command import replacing

from ..files.names import stages_of
from ..noise import ACCEPTED, NOISY, WRONG
from ..stages import ParityError, Stage
from .reports.report import Report, number

Accept = float | Mapping[str, float] | str | os.PathLike[str] | None
EXPECTED = "expected units of noise, above 0, or a JSON file of stage: units"
SPARE = 1.25  # what another machine's noise may add to a difference that was written down


def accepted_units(
    accept: Accept, stages: Iterable[Stage], n_layer: int | None
) -> dict[Stage, float]:
    """How many units of noise each stage may be off by; those that none are accepted of left out.

    n_layer: how many blocks the encoder has, if that is known. Raises ParityError for what is
    neither a number, nor a mapping of stages, nor a file that holds one.
    """
    if accept is None:
        return {}
    if isinstance(accept, str | os.PathLike) and not is_number(accept):
        accept = of_file(Path(accept))
    if not isinstance(accept, Mapping):
        return dict.fromkeys(stages, units(accept, "accept"))
    return {stage: units(accept[name], name) for name, stage in stages_of(accept, n_layer).items()}


def is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True


def of_file(path: Path) -> Mapping[str, float]:
    try:
        held = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ParityError(f"--accept {path}: {error.strerror}; {EXPECTED}") from error
    except ValueError as error:
        raise ParityError(f"--accept {path}: not JSON ({error}); {EXPECTED}") from error
    if not isinstance(held, dict):
        raise ParityError(f"--accept {path}: {type(held).__name__}; {EXPECTED}")
    return held


def units(value: object, what: str) -> float:
    ok = isinstance(value, int | float | str) and not isinstance(value, bool) and is_number(value)
    found = float(str(value)) if ok else math.nan
    if not 0 < found < math.inf:
        raise ParityError(f"{what}: {value!r}; {EXPECTED}")
    return found


def accept_up_to(report: Report, accepted: Mapping[Stage, float]) -> None:
    """Mark what is off by no more than is accepted."""
    for stage in report.stages:
        limit = accepted.get(stage.name, 0.0)
        if stage.verdict in (NOISY, WRONG) and stage.noise <= limit:
            stage.verdict = ACCEPTED
            stage.notes += (f"up to {number(limit)} x noise accepted",)


def write_accepted(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the differences of this report as a file for `accept`, with a quarter to spare."""
    off = {
        stage.name: float(f"{SPARE * stage.noise:.3g}")
        for stage in report.stages
        if stage.verdict in (NOISY, WRONG, ACCEPTED) and math.isfinite(stage.noise)
    }
    with replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps(off, indent=2) + "\n", "utf-8")
