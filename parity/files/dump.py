"""Write our tensors of every stage to a file, for others to compare theirs with."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import melfront

from .. import noise as measure
from .. import stages
from ..pipeline import Subject, model_digest
from ..resolve import DEFAULT, resolve
from .sampling import N_SAMPLES, sample_positions
from .tensors import FLOOR, FORMAT, NORM, SAMPLED, Array, Dump, ParityError, Writer, replacing

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

    wanted: stage names, all by default; a prefix such as "block.0." stands for what begins with it.
    dtype: "float64", the oracle's; "float32", what a right port in float32 has.
    sample: of each stage only `sampling.sample_positions`, and the norms of the whole in the
        metadata, so that a large model's dump is small.
    tell: called with a line that says what the dump is of, before the work.
    The spectrum is written as (F, K, 2), real and imaginary parts.

    The metadata holds the clip, the model, the convention, and each stage's float32 noise floor.
    Returns the shapes written. Raises ParityError.
    """
    path = Path(path)
    if path.suffix not in (".npz", ".safetensors"):
        raise ParityError(f"{path}: expected a name that ends in .npz or .safetensors")
    if dtype not in ("float64", "float32"):
        raise ParityError(f"dtype {dtype!r}; expected float64 or float32")
    subject = resolve(Dump({}, {}), None, audio, model, n_mels, convention, pad_to, check_range)
    if subject.clips.batched:
        raise ParityError("a dump is of one clip; given several")
    shapes = chosen(stage_shapes(subject), wanted)
    tell(subject.describe())
    kept: dict[str, tuple[int, ...]] = {
        name: (min(math.prod(shape), N_SAMPLES),) for name, shape in shapes.items()
    }
    norms: dict[str, float] = {}
    first: dict[str, Array] = {}
    with replacing(path) as temporary:
        writer = Writer(temporary, path.suffix, kept if sample else shapes, dtype)
        metadata = None
        try:

            def write(stage: str, values: Array) -> None:
                norms[stage] = float(np.linalg.norm(values))
                first[stage] = at_positions(stage, values, N_FLOOR)
                writer.write(stage, at_positions(stage, values, N_SAMPLES) if sample else values)

            produce(subject, set(shapes), dtype, write)
            other: dict[str, Array] = {}

            def keep(stage: str, values: Array) -> None:
                other[stage] = at_positions(stage, values, N_FLOOR)

            produce(subject, set(shapes), "float32" if dtype == "float64" else "float64", keep)
            truth, port = (first, other) if dtype == "float64" else (other, first)
            noise = noise_of_sample if sample else noise_of_stage
            floors = {name: noise(name, shapes[name], truth[name], port[name]) for name in shapes}
            metadata = describe(subject, dtype, floors)
            if sample:
                metadata |= {NORM + name: repr(norms[name]) for name in shapes}
                metadata |= {SAMPLED + name: spaced(shape) for name, shape in shapes.items()}
        finally:
            writer.close(metadata)
    return kept if sample else shapes


def noise_of_stage(_stage: str, _shape: tuple[int, ...], truth: Array, port: Array) -> float:
    """The float32 noise of a stage: `truth` and a right port's values at N_FLOOR positions."""
    return measure.noise_floor(truth, port)


def noise_of_sample(stage: str, shape: tuple[int, ...], truth: Array, port: Array) -> float:
    """The same, but no less than at the few positions kept.

    Channels differ, and so does their noise: 256 values can have three times that of the whole.
    """
    size = math.prod(shape)
    kept = slice(N_SAMPLES) if size > N_FLOOR else sample_positions(stage, size)
    least = measure.noise_floor(truth[kept], port[kept])
    return max(noise_of_stage(stage, shape, truth, port), least)


def at_positions(stage: str, values: Array, count: int) -> Array:
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat[sample_positions(stage, flat.size, count)]


def produce(
    subject: Subject, wanted: set[str], dtype: str, sink: Callable[[str, Array], None]
) -> None:
    """Run the pipeline in float64 or as a right float32 port, handing each stage to `sink`."""
    encoder = subject.model is not None

    def tap(stage: str, tensor: Array) -> Array:
        if stage in wanted:
            sink(stage, as_real(tensor))
        return tensor

    if dtype == "float64":
        subject.run(tap, encoder=encoder)
    else:
        subject.run_right_port(tap, encoder=encoder)


def as_real(tensor: Array) -> Array:
    """Complex (...) to real (..., 2)."""
    return np.stack([tensor.real, tensor.imag], -1) if np.iscomplexobj(tensor) else tensor


def stage_shapes(subject: Subject) -> dict[str, tuple[int, ...]]:
    """Every stage's shape for this clip and model, in order."""
    c = subject.convention
    sizes = {"N": c.n_fft, "K": c.n_fft // 2 + 1, "M": subject.n_mels}
    sizes["L + N"] = subject.length + c.extra_padding + c.n_fft
    frames = (subject.length + c.extra_padding) // c.hop_length
    order = stages.front_end_names()
    if subject.model:
        config = subject.model.config
        sizes |= {"T": config.n_audio_ctx, "S": config.n_audio_state, "A": config.n_audio_mlp}
        sizes["H"] = config.n_audio_head
        order = order + stages.encoder_names(config.n_audio_layer)
    shapes = {}
    for name in order:
        # Extra padding has frames of its own, until the features are cut to the clip's.
        cut = name == "features" or name not in stages.front_end_names()
        sizes["F"] = subject.length // c.hop_length if cut else frames
        shapes[name] = tuple(sizes[letter] for letter in stages.find(name).shape)
        if name == "spectrum":
            shapes[name] += (2,)
    return shapes


def chosen(
    shapes: dict[str, tuple[int, ...]], wanted: Iterable[str] | None
) -> dict[str, tuple[int, ...]]:
    if wanted is None:
        return shapes
    names = set()
    for want in wanted:
        # As `parity stages` lists them, with I for the number: of every block.
        block = re.sub(r"^block\\.I\\.", r"block\\.\\d+\\.", re.escape(want))
        found = {n for n in shapes if re.fullmatch(block + ".*" * want.endswith("."), n)}
        if not found:  # another program's name, as in what `python -m encoder` writes
            n_layer = sum(n.endswith(".mlp_residual") for n in shapes)
            found = {*stages.canonical([want], n_layer).values()} & {*shapes}
        if not found:
            raise ParityError(stages.unknown(want, list(shapes)))
        names |= found
    return {name: shape for name, shape in shapes.items() if name in names}


def describe(subject: Subject, dtype: str, floors: dict[str, float]) -> dict[str, str]:
    """What a dump says of itself, as safetensors metadata."""
    metadata = {
        "format": FORMAT,
        "clip": subject.clip_name,
        "clip_sha256": subject.clip_digest,
        "n_mels": str(subject.n_mels),
        "convention": subject.convention.name,
        "pad_to": str(subject.pad_to),
        "dtype": dtype,
        "melfront": melfront.__version__,
        "numpy": np.__version__,
        "torch": torch.__version__,
    }
    if not subject.check_range:
        metadata["check_range"] = "False"
    if subject.model:
        metadata |= {"model": subject.model_name, "model_sha256": model_digest(subject.model)}
    return metadata | {FLOOR + name: repr(floor) for name, floor in floors.items()}


def spaced(shape: Iterable[int]) -> str:
    return " ".join(map(str, shape))
