"""The verdict on a tensor of which only a few numbers were printed: first and last values, sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..files.sampling import as_real
from ..files.tensors import Dump, Tensor
from ..files.texts import Printed, last_digits
from ..noise import EPS, SHAPE, Array, Floor, rms, verdict
from ..pipeline import Pipeline
from ..stages import ParityError, Stage
from .reports.report import StageResult

ONLY_PRINTED = "only printed values of it were given; save the whole tensor to have it named"


def check_printed(given: Dump[Stage], held: Dump[Stage] | None, forced: bool) -> None:
    """Raises ParityError for what cannot be done with a list of printed values."""
    if held and any(tensor.printed for tensor in held.tensors.values()):
        raise ParityError("the REFERENCE is a list of printed values: give whole tensors")
    for stage, tensor in given.tensors.items():
        if tensor.printed and forced:
            raise ParityError(f"--forced computes from whole stages: {stage} is a printed list")
        if tensor.printed and held and stage in held.sampled:
            raise ParityError(f"{stage}: printed values cannot be compared with a sample")


def judge_printed(
    stage: Stage, tensor: Tensor, truth: Array, floor: Floor, pipeline: Pipeline
) -> StageResult:
    """The verdict on what was printed, at the digits that it has.

    The first values of a tensor may be those of its transpose, and both are tried.
    """
    printed = tensor.printed
    assert printed is not None
    port = right_port(stage, tensor, truth, pipeline)
    truth = as_real(truth)
    shape = tuple(n for n in printed.shape if n != 1) if printed.shape else truth.shape
    orders = {"": (truth, port)}
    if truth.ndim == 2:
        orders["transposed"] = (truth.T, port.T)
    fitting = {k: v for k, v in orders.items() if v[0].shape == shape or printed.shape is None}
    most = max(len(printed.first), len(printed.last))
    if not fitting or most > truth.size:
        what = f"shape {printed.shape}" if not fitting else f"{most} values"
        note = f"{what}, expected {truth.shape}"
        return StageResult(stage, SHAPE, dtype=tensor.dtype, notes=(note,))
    tried = {k: Facts(printed, t, p, floor.rms).errors for k, (t, p) in fitting.items()}
    order = min(tried, key=lambda k: total(tried[k]))
    noise = {fact: rms(np.array(errors)) for fact, (errors, _) in tried[order].items()}
    worst = max(noise, key=lambda fact: (not math.isfinite(noise[fact]), noise[fact]))
    counted = [f"{n} {name} values" for n, name in
               ((len(printed.first), "first"), (len(printed.last), "last")) if n]  # fmt: skip
    note = f"only {', '.join([*counted, *printed.numbers])}, at the digits given"
    return StageResult(
        stage,
        verdict(noise[worst], tensor.dtype),
        noise[worst],
        tried[order][worst][1],
        f"the {worst}" if worst in printed.numbers else f"the {worst} values",
        dtype=tensor.dtype,
        notes=(note, *([order] if order else [])),
        floor=floor.rms,
        unit=floor.unit,
        scale=rms(truth),
    )


def right_port(stage: Stage, tensor: Tensor, truth: Array, pipeline: Pipeline) -> Array:
    """What a right port has where the truth was computed here; elsewhere the truth itself."""
    if pipeline.audio is None or stage not in pipeline.stages:
        return as_real(truth)
    port = pipeline.right_port([stage], "float32")[stage]
    return as_real(port if port.shape == truth.shape else truth)


def total(errors: dict[str, tuple[list[float], float]]) -> float:
    """rms of all the errors of one order; infinite where one is not finite."""
    size = rms(np.array([error for several, _ in errors.values() for error in several]))
    return size if math.isfinite(size) else math.inf


class Facts:
    """Errors of printed numbers beyond half of their last digit, in units of noise."""

    def __init__(self, printed: Printed, truth: Array, port: Array, floor: float) -> None:
        self.printed, self.floor = printed, floor
        self.truth = np.ascontiguousarray(truth).reshape(-1)
        self.port = np.ascontiguousarray(port, np.float64).reshape(-1)

    @property
    def errors(self) -> dict[str, tuple[list[float], float]]:
        """Of each fact the errors in units of noise, and the largest as it is."""
        found = {}
        for fact, place, numbers in (
            ("first", slice(None, len(self.printed.first)), self.printed.first),
            ("last", slice(-len(self.printed.last), None), self.printed.last),
        ):
            if numbers:
                right, near = self.truth[place], self.port[place]
                found[fact] = self.measured(numbers, right, self.unit(near - right))
        for fact, number in self.printed.numbers.items():
            exact, unit = self.number(fact)
            found[fact] = self.measured((number,), np.array([exact]), unit)
        return found

    def measured(self, numbers: Any, right: Array, unit: float) -> tuple[list[float], float]:
        values = np.array([number.value for number in numbers])
        steps = np.array(last_digits(numbers))
        with np.errstate(invalid="ignore"):
            far = np.abs(values - right)
            beyond = np.maximum(far - steps / 2, 0)  # NaN stays NaN
        return [float(x) for x in beyond / np.hypot(unit, steps / math.sqrt(12))], float(far.max())

    def unit(self, error: Array) -> float:
        """The noise of a few values, where a right port's error is this."""
        return max(self.floor, rms(np.asarray(error)))

    def number(self, fact: str) -> tuple[float, float]:
        """The truth of a sum, a mean, an extreme; and the noise of a right port in it."""
        x, port, size = self.truth, self.port, self.truth.size
        if fact in ("sum", "mean"):
            # Added up in float32 one by one, a sum is off by a rounding at each step, which goes
            # the same way for each of many equal values.
            one_by_one = float(np.cumsum(x, dtype=np.float32)[-1])
            walk = EPS["float32"] * math.sqrt(size) * float(np.abs(np.cumsum(x)).max())
            unit = math.hypot(size * self.floor, walk, one_by_one - float(x.sum()))
            return (float(x.sum()), unit) if fact == "sum" else (float(x.mean()), unit / size)
        if fact in ("min", "max"):
            right, near = (getattr(np, fact)(tensor) for tensor in (x, port))
            return float(right), max(self.unit(near - right), EPS["float32"] * abs(float(right)))
        return (rms(x) if fact == "rms" else float(x.std())), self.floor
