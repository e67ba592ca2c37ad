"""Write our tensors of every stage to a file, for others to compare theirs with."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import melfront
from melfront.command import replacing

from ..noise import Array, noise_floor
from ..pipeline import Pipeline
from ..resolve import DEFAULT, NO_DUMP, model_digest, resolve
from ..stages import ParityError, Stage, unknown
from .names import stages_of
from .sampling import N_SAMPLES, as_real, at_positions, sample_positions
from .shapes import Shapes, stage_shapes
from .tensors import FLOOR, FORMAT, NORM, SAMPLED, Writer

N_FLOOR = 1 << 14  # positions from which a stage's noise is estimated, to within a percent or so


def dump(
    path: str | os.PathLike[str],
    audio: Any = None,
    model: Any = None,
    *,
    wanted: Iterable[str] | None = None,
    dtype: str = "float64",
    sample: bool = False,
    n_mels: int | None = None,
    convention: Any = None,
    pad_to: Any = DEFAULT,
    check_range: bool = True,
    tell: Callable[[str], object] = lambda _: None,
) -> dict[str, tuple[int, ...]]:
    """Write the stages of one clip to an .npz or .safetensors file, each as it is made.

    path: the file to write; its name says the format.
    audio, model, n_mels, convention, pad_to, check_range: as of `parity.compare`.
    wanted: stage names, all by default; a prefix such as "block.0." stands for all that begin so.
    dtype: "float64", the oracle's; "float32", what a right port in float32 has.
    sample: of each stage only 256 fixed positions (`sampling.sample_positions`), and the norm of
        the whole in the metadata, so that a large model's dump is small.
    tell: called before the work, with a line that says what the dump is of.
    The spectrum is written as (F, K, 2), real and imaginary parts.

    The metadata holds the clip, the model, the convention, and each stage's float32 noise.
    Returns the shapes written, stage to shape. Raises ParityError for what cannot be dumped and
    OSError where the file cannot be written; neither leaves a file behind.
    """
    path = Path(path)
    if path.suffix not in (".npz", ".safetensors"):
        raise ParityError(f"{path}: expected a name that ends in .npz or .safetensors")
    if dtype not in ("float64", "float32"):
        raise ParityError(f"dtype {dtype!r}; expected float64 or float32")
    pipeline = resolve(NO_DUMP, None, audio, model, n_mels, convention, pad_to, check_range)[0]
    if pipeline.clips.batched:
        raise ParityError("a dump is of one clip; given several")
    shapes = chosen(stage_shapes(pipeline), wanted)
    tell(pipeline.describe())
    written = shapes
    if sample:
        written = {s: (min(math.prod(shape), N_SAMPLES),) for s, shape in shapes.items()}
    with replacing(path) as temporary:
        writer = Writer(temporary, path.suffix, written, dtype)
        metadata = None
        try:
            metadata = write(writer, pipeline, shapes, dtype, sample)
        finally:
            writer.close(metadata)
    return {str(stage): shape for stage, shape in written.items()}


def write(
    writer: Writer, pipeline: Pipeline, shapes: Shapes, dtype: str, sample: bool
) -> dict[str, str]:
    """Write these stages, whole or sampled, and return the metadata."""
    norms: dict[str, float] = {}
    first: dict[str, Array] = {}
    other: dict[str, Array] = {}

    def keep_and_write(stage: str, tensor: Array) -> Array:
        if stage in shapes:
            values = as_real(tensor)
            norms[stage] = float(np.linalg.norm(values))
            first[stage] = at_positions(stage, values, N_FLOOR)
            writer.write(stage, at_positions(stage, values) if sample else values)
        return tensor

    def keep(stage: str, tensor: Array) -> Array:
        if stage in shapes:
            other[stage] = at_positions(stage, as_real(tensor), N_FLOOR)
        return tensor

    encoder = pipeline.model is not None
    if dtype == "float64":
        pipeline.run(keep_and_write, encoder)
        pipeline.run_right_port(keep, encoder)
        truth, port = first, other
    else:
        pipeline.run_right_port(keep_and_write, encoder)
        pipeline.run(keep, encoder)
        truth, port = other, first
    floors = {s: noise_of(s, shape, truth[s], port[s], sample) for s, shape in shapes.items()}
    metadata = describe(pipeline, dtype) | {FLOOR + s: repr(floor) for s, floor in floors.items()}
    if sample:
        metadata |= {NORM + stage: repr(norms[stage]) for stage in shapes}
        metadata |= {SAMPLED + stage: spaced(shape) for stage, shape in shapes.items()}
    return metadata


def noise_of(stage: str, shape: tuple[int, ...], truth: Array, port: Array, sampled: bool) -> float:
    """The float32 noise of a stage. truth, port: a right port's values at N_FLOOR positions.

    sampled: no less than the noise of the few positions kept. Channels differ, and so does their
    noise: 256 values can have three times that of the whole.
    """
    whole = noise_floor(truth, port)
    if not sampled:
        return whole
    size = math.prod(shape)
    kept = slice(N_SAMPLES) if size > N_FLOOR else sample_positions(stage, size)
    return max(whole, noise_floor(truth[kept], port[kept]))


def chosen(shapes: Shapes, wanted: Iterable[str] | None) -> Shapes:
    """The stages asked for. Raises ParityError for a name that is none of them."""
    if wanted is None:
        return shapes
    stages: set[Stage] = set()
    for want in wanted:
        # "block.0." is all of block 0, and "block.I." all of every block.
        found = {
            stage
            for stage in shapes
            for name in (stage, stage.in_block("I"))
            if name == want or (want.endswith(".") and name.startswith(want))
        }
        if not found:  # another program's name, as in what `melfront encoder` writes
            n_layer = 1 + max(-1 if s.block is None else s.block for s in shapes)
            found = {*stages_of([want], n_layer).values()} & {*shapes}
        if not found:
            raise ParityError(unknown(want))
        stages |= found
    return {stage: shape for stage, shape in shapes.items() if stage in stages}


def describe(pipeline: Pipeline, dtype: str) -> dict[str, str]:
    """What a dump says of itself, as safetensors metadata."""
    metadata = {
        "format": FORMAT,
        "clip": pipeline.clip_name,
        "clip_sha256": pipeline.clip_digest,
        "n_mels": str(pipeline.n_mels),
        "convention": pipeline.convention.name,
        "pad_to": str(pipeline.pad_to),
        "dtype": dtype,
        "melfront": melfront.__version__,
        "numpy": np.__version__,
        "torch": torch.__version__,
    }
    if not pipeline.check_range:
        metadata["check_range"] = "False"
    if pipeline.model:
        metadata["model"] = pipeline.model_name
        metadata["model_sha256"] = model_digest(pipeline.model)
    return metadata


def spaced(shape: Iterable[int]) -> str:
    return " ".join(map(str, shape))
