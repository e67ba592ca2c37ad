"""Parity from Python: an assertion for people's own tests, and the pipeline from any stage on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import noise as measure
from . import stages
from .comparison.compare import compare
from .files.fit import fit
from .files.tensors import Array, Dump, ParityError, as_tensor
from .pipeline import Subject
from .resolve import resolve


def assert_parity(mine: Any, stage: str, **options: Any) -> None:
    """Assert that a tensor is right to within the noise of its type.

    mine: array or tensor of the stage of this name (`python -m parity stages`, or an alias such as
    `input_features` or `last_hidden_state`). Options are those of `parity.compare`: audio, model,
    n_mels, convention, pad_to, check_range. Raises AssertionError with the whole report, mistake
    and all.
    """
    report = compare({stage: mine}, **options)
    if not report.ok:
        raise AssertionError(f"\n{report}")


def trace(audio: Any = None, model: Any = None, **options: Any) -> dict[str, Array]:
    """The float64 truth of every stage, name to array; the encoder's only if a model is given."""
    return resume({}, audio=audio, model=model, **options)


def resume(
    tensors: Mapping[str, Any],
    *,
    audio: Any = None,
    model: Any = None,
    n_mels: int | None = None,
    convention: Any = None,
    pad_to: Any = "default",
    check_range: bool = True,
) -> dict[str, Array]:
    """Put somebody's tensors in at their stages and run the rest in float64 from there.

    tensors: stage name to array, in any layout that `compare` knows. What comes before, and
    whatever else a later stage needs - the residual, the other projections - is the truth.
    Returns every stage, name to float64 array. Raises ParityError.
    """
    given = Dump({name: as_tensor(values, name) for name, values in tensors.items()}, {})
    subject: Subject = resolve(given, None, audio, model, n_mels, convention, pad_to, check_range)
    names = stages.canonical(list(given.tensors), subject.n_layer)
    wanted = {stage: given.tensors[name].values for name, stage in names.items()}
    result: dict[str, Array] = {}

    def put(stage: str, tensor: Array) -> Array:
        if stage in wanted:
            fitted = fit(wanted[stage], stage, tensor.shape)
            if not fitted.fits:
                raise ParityError(
                    f"{stage} has shape {wanted[stage].shape}, expected {tensor.shape}"
                )
            tensor = measure.widen(fitted.values)
        result[stage] = tensor
        return tensor

    subject.run(put, encoder=subject.model is not None)
    return result
