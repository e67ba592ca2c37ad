"""Parity from Python: an assertion for people's own tests, and the pipeline from any stage on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .comparison.compare import compare
from .comparison.lengths.read import shapes_of
from .comparison.lengths.windows import windows_of
from .files.fit import fit
from .files.tensors import collect
from .noise import Array, widen
from .resolve import DEFAULT, resolve
from .stages import ParityError, Stage


def assert_parity(mine: Any, stage: str, **options: Any) -> None:
    """Assert that a tensor is right to within the noise of its type.

    mine: float16, bfloat16, float32 or float64 array or tensor.
    stage: its name (`melfront parity stages`, or an alias such as `input_features` or
        `last_hidden_state`).
    options: those of `parity.compare`: audio, model, n_mels, convention, pad_to, check_range,
        computed_in, quantised, accept.

    Raises AssertionError with the whole report, the name of the mistake included, and ParityError
    for what cannot be compared.
    """
    report = compare({stage: mine}, **options)
    if not report.ok:
        raise AssertionError(f"\n{report}")


def trace(audio: Any = None, model: Any = None, **options: Any) -> dict[str, Array]:
    """The float64 truth of every stage: what the oracles of `melfront` and `encoder` compute.

    The encoder's stages only if a model is given. Options are those of `parity.compare`: audio,
    model, n_mels, convention, pad_to, check_range. Returns name to float64 array (the spectrum is
    complex128), in order. Raises ParityError.
    """
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
    """Replace stages by these tensors and compute all later stages from them, in float64.

    tensors: stage name to array, in any layout that `compare` knows. Everything else that a later
    stage needs, such as the residual or the other projections, is the truth.
    audio, model, n_mels, convention, pad_to, check_range: as of `parity.compare`.
    Returns every stage, name to float64 array (the spectrum is complex128), of the shapes that
    `melfront parity stages` lists, with an axis more in front for a batch.
    Raises ParityError for an unknown stage or a shape that does not fit.
    """
    dump = collect(tensors.items(), "what was given")
    pipeline, given, _ = resolve(dump, None, audio, model, n_mels, convention, pad_to, check_range)
    given = next(windows_of(pipeline, given, None, shapes_of(pipeline, given, None))).given
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
