"""Parity from Python: an assertion for people's own tests, and the pipeline from any stage on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .comparison.compare import compare
from .files.fit import fit
from .files.tensors import Dump, as_tensor
from .noise import Array, widen
from .resolve import DEFAULT, resolve
from .stages import ParityError, Stage


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
    pad_to: Any = DEFAULT,
    check_range: bool = True,
) -> dict[str, Array]:
    """Put somebody's tensors in at their stages and run the rest in float64 from there.

    tensors: stage name to array, in any layout that `compare` knows. What comes before, and
    whatever else a later stage needs - the residual, the other projections - is the truth.
    Returns every stage, name to float64 array. Raises ParityError.
    """
    dump = Dump({name: as_tensor(values, name) for name, values in tensors.items()}, {})
    pipeline, given, _ = resolve(dump, None, audio, model, n_mels, convention, pad_to, check_range)
    result: dict[str, Array] = {}

    def put(name: str, tensor: Array) -> Array:
        stage = Stage(name)
        if stage in given.tensors:
            values = given.tensors[stage].values
            fitted = fit(values, stage, tensor.shape)
            if not fitted.fits:
                raise ParityError(f"{stage} has shape {values.shape}, expected {tensor.shape}")
            tensor = widen(fitted.values)
        result[stage] = tensor
        return tensor

    pipeline.run(put, encoder=pipeline.model is not None)
    return result
