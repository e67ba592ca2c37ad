"""Find out what a dump is of - clip, model, features - from options, metadata and shapes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import melfront
from melfront.audio import SAMPLE, digest
from melfront.command import MAX_MELS, is_n_mels
from melfront.conventions import (
    CHUNK_LENGTH,
    FRAMES_PER_SECOND,
    HOP_LENGTH,
    Convention,
    named_convention,
)
from melfront.encoder import WhisperEncoder

from . import signals
from .files.by_stage import by_stage, layers_named
from .files.flat import bins_of_tensor, unflattened
from .files.sampling import N_SAMPLES
from .files.tensors import Dump
from .pipeline import MAX_SECONDS, Pipeline, load_model, shorter
from .stages import ParityError, Stage

DEFAULT = "default"
GIVEN_MODEL = "the encoder given"  # the name of a model that is an object and not a file
SAME = {
    "clip_sha256": "clip",
    "model_sha256": "model",
    "n_mels": "number of mel bins",
    "convention": "convention",
}
NO_DUMP: Dump[str] = Dump({}, {})


def resolve(
    given: Dump[str],
    held: Dump[str] | None = None,
    audio: Any = None,
    model: Any = None,
    n_mels: int | None = None,
    convention: Any = None,
    pad_to: Any = DEFAULT,
    check_range: bool = True,
) -> tuple[Pipeline, Dump[Stage], Dump[Stage] | None]:
    """The pipeline to compare with, and both dumps with their tensors under their stages.

    given: the candidate's tensors; held: the reference's. Options count first, then the files'
    metadata, then the sample clip. Raises ParityError where the files contradict each other or the
    options.
    """
    ours, theirs = given.metadata, held.metadata if held else {}
    check_same(ours, theirs)
    for dump in (given, held or NO_DUMP):
        check_sampled(dump)
    said = {**theirs, **ours}
    check_range = check_range and said.get("check_range") != "False"
    clip, clip_name = clip_of(audio, said, check_range, needed=held is None)
    encoder, model_name = model_of(model, said, needed=held is None)
    layers = layers_named(given, held) if held and encoder is None else None
    n_layer = encoder.config.n_audio_layer if encoder else layers
    staged, staged_held = by_stage(given, n_layer), by_stage(held, n_layer) if held else None
    if staged_held:
        check_axes(staged_held)
    bins = bins_of(n_mels, encoder, model_name, said, staged, clip)
    seconds = padding_of(pad_to, said, encoder)
    chosen = convention_of(convention or said.get("convention") or "transformers")
    pipeline = Pipeline(clip, encoder, bins, chosen, seconds, clip_name, model_name)
    pipeline.layers, pipeline.check_range = layers, check_range
    if not is_built_in(clip_name) and os.path.isfile(clip_name):
        pipeline.file = clip_name
    if encoder and clip is not None:
        fewer_positions(pipeline, encoder)
    if held is not None and encoder is None:
        told = n_mels is not None or "n_mels" in said
        pipeline.bins_matter = told or any(stage.of_front_end for stage in staged.tensors)
    if clip is not None:
        check_made_from(
            "clip", ours, theirs, clip_name, pipeline.clip_digest, asked=audio is not None
        )
    if encoder:
        sha = model_digest(encoder)
        check_made_from("model", ours, theirs, model_name, sha, asked=model is not None)
    return pipeline, unflattened(staged, pipeline, staged_held), staged_held


def of_signal(
    name: str, n_mels: int, model: WhisperEncoder | None = None, model_name: str = ""
) -> Pipeline:
    """A signal of reference_data at its own length, as in the dumps there."""
    clip = name if name == "sample" else signals.PREFIX + name
    return Pipeline(
        signals.load(name),
        model,
        n_mels,
        pad_to=signals.SIGNALS[name].pad_to,
        clip_name=clip,
        model_name=model_name,
    )


# --- tensors --------------------------------------------------------------------------------------


def check_sampled(dump: Dump[str]) -> None:
    """Raises ParityError where a tensor is not the sample that the metadata says it is."""
    for name, shape in dump.sampled.items():
        values = dump.tensors[name].values if name in dump.tensors else None
        if values is not None and values.shape != (min(math.prod(shape), N_SAMPLES),):
            raise ParityError(
                f"{name}: shape {values.shape}, but the metadata 'sampled' says {N_SAMPLES} values "
                f"of {shape}; take what `dump` wrote"
            )


def check_axes(held: Dump[Stage]) -> None:
    """Raises ParityError where a reference has a stage flat, or cut down to fewer axes."""
    for stage, tensor in held.tensors.items():
        whole = stage not in held.sampled and tensor.printed is None
        if whole and tensor.values.ndim < len(stage.axes):
            raise ParityError(
                f"the reference has {stage} in shape {tensor.values.shape}; expected its axes, "
                f"({', '.join(stage.axes)})"
            )


# --- what the files say ---------------------------------------------------------------------------


def check_same(ours: dict[str, str], theirs: dict[str, str]) -> None:
    """Raises ParityError where the metadata of two dumps contradict each other."""
    for key, what in SAME.items():
        if key in ours and key in theirs and ours[key] != theirs[key]:
            raise ParityError(
                f"the dumps differ in the {what}: {named(ours, key)} and {named(theirs, key)}; "
                f"compare dumps with the same {what}"
            )


def named(metadata: dict[str, str], key: str) -> str:
    """What a dump says of this key of SAME; for a hash, the name and the hash's first digits."""
    value = metadata[key]
    return f"{metadata.get(SAME[key])!r} ({value[:12]}...)" if key.endswith("_sha256") else value


def check_made_from(
    what: str, ours: dict[str, str], theirs: dict[str, str], used: str, sha: str, asked: bool
) -> None:
    """Raises ParityError where a file was made from another clip or model than the one `used`.

    asked: whether an option named that one, and not a file.
    """
    option = {"clip": "--audio", "model": "--model"}[what]
    for file, metadata in (("the dump", ours), ("the reference", theirs)):
        if metadata.get(f"{what}_sha256", sha) == sha:
            continue
        name = metadata.get(what)
        if name == used:
            raise ParityError(
                f"the {what} {used!r} is not what {file} was made from, but has its name: "
                f"pass the right one with {option}"
            )
        if metadata is theirs and not asked:
            raise ParityError(
                f"the dump is of the {what} {used!r}, the reference of the {what} {name!r}: "
                f"compare dumps of the same {what}"
            )
        raise ParityError(
            f"{file} is of the {what} {name!r}, not of {used!r}: pass that {what} with {option}"
        )


# --- the clip -------------------------------------------------------------------------------------


def clip_of(audio: Any, said: dict[str, str], check_range: bool, needed: bool) -> tuple[Any, str]:
    """The clip and its name. With a reference the clip may be missing: it only names mistakes."""
    try:
        return load_clip(audio, said, check_range)
    except ParityError:
        if needed or audio is not None:
            raise
        return None, said["clip"]


def load_clip(audio: Any, said: dict[str, str], check_range: bool) -> tuple[Any, str]:
    """The clip and its name. audio: a path, a name of `is_built_in`, an array, a list."""
    if audio is None:
        audio = said.get("clip", "sample")
        if not is_built_in(audio) and not os.path.isfile(audio):
            raise ParityError(f"the dump is of the clip {audio!r}, which is not here: pass --audio")
    if isinstance(audio, (str, os.PathLike)):
        name = "sample" if Path(audio) == SAMPLE else str(audio)
        return read_clip(audio, check_range), name
    if isinstance(audio, (list, tuple)) and all(isinstance(a, (str, os.PathLike)) for a in audio):
        return [read_clip(path, check_range) for path in audio], ", ".join(map(str, audio))
    return audio, "the array given"


def is_built_in(name: str) -> bool:
    """Does the name stand for a clip that comes with the project: `sample`, `signal:speech`?"""
    return name == "sample" or name.startswith(signals.PREFIX)


def read_clip(path: str | os.PathLike[str], check_range: bool) -> Any:
    try:
        if isinstance(path, str) and path.startswith(signals.PREFIX):
            return signals.load(path.removeprefix(signals.PREFIX))
        return melfront.load_audio(path, check_range)
    except (ValueError, OSError) as error:  # AudioError is one
        raise ParityError(str(error)) from error


# --- the model and the options --------------------------------------------------------------------


def model_of(model: Any, said: dict[str, str], needed: bool) -> tuple[WhisperEncoder | None, str]:
    """The model and its name. With a reference the model may be missing.

    A model that only the files name is then not downloaded.
    """
    try:
        return find_model(model, said, local_only=not needed and model is None)
    except ParityError:
        if needed or model is not None:
            raise
        return None, said["model"]


def find_model(
    model: Any, said: dict[str, str], local_only: bool
) -> tuple[WhisperEncoder | None, str]:
    """The model in float32 on the CPU, and its name."""
    if isinstance(model, WhisperEncoder):
        weights = {name: w.detach().cpu().float() for name, w in model.state_dict().items()}
        return WhisperEncoder.from_weights(model.config, weights), GIVEN_MODEL
    name = str(model or said.get("model") or "")
    if name == GIVEN_MODEL and not model:
        raise ParityError("the dump is of a model that was not a file: pass it as the model")
    return (load_model(name, local_only), name) if name else (None, "")


def model_digest(model: WhisperEncoder) -> str:
    """SHA-256 of a few small tensors: enough to tell two checkpoints apart."""
    weights = model.state_dict()
    return digest(
        *(weights[n].float().numpy() for n in ("conv1.bias", "ln_post.weight", "ln_post.bias"))
    )


def bins_of(
    n_mels: int | None,
    encoder: WhisperEncoder | None,
    model_name: str,
    said: dict[str, str],
    given: Dump[Stage],
    clip: Any,
) -> int:
    """The number of mel bins: as asked for, the model's, or as the dump looks. ParityError."""
    if n_mels is None:
        return encoder.config.n_mels if encoder else guess_n_mels(given, said, clip)
    if not 1 <= n_mels <= MAX_MELS:
        raise ParityError(f"--n-mels {n_mels}; expected 1 to {MAX_MELS}")
    if encoder and encoder.config.n_mels != n_mels:
        raise ParityError(f"--n-mels {n_mels}, but {model_name} takes {encoder.config.n_mels} bins")
    return n_mels


def guess_n_mels(given: Dump[Stage], said: dict[str, str], clip: Any) -> int:
    """80 or 128, by the metadata or by the shape of the features; 128 if nothing tells."""
    if "n_mels" in said:
        if not is_n_mels(said["n_mels"]):
            raise ParityError(
                f"the dump says n_mels {said['n_mels']!r}; expected a number, 1 to {MAX_MELS}"
            )
        return int(said["n_mels"])
    for stage, tensor in given.tensors.items():
        if "M" in stage.axes and (bins := bins_of_tensor(tensor, clip)):
            return bins
    return 128


def padding_of(pad_to: Any, said: dict[str, str], encoder: WhisperEncoder | None) -> float | None:
    """Seconds that the clip is padded to, None for its own length. Raises ParityError."""
    if pad_to == DEFAULT:
        pad_to = read_pad_to(said.get("pad_to"))
    elif pad_to is not None and not 0 < pad_to <= MAX_SECONDS:
        raise ParityError(f"--pad-to {pad_to:g}; expected seconds above 0, up to {MAX_SECONDS}")
    if encoder is not None and pad_to == CHUNK_LENGTH:
        return encoder.config.n_frames / FRAMES_PER_SECOND  # a toy encoder hears less than 30 s
    return pad_to


def fewer_positions(pipeline: Pipeline, encoder: WhisperEncoder) -> None:
    """Cut the encoder's positions to those of a clip that is padded to less than its window."""
    whole, frames = encoder.config.n_audio_ctx, pipeline.length // HOP_LENGTH
    if 0 < frames < 2 * whole and frames % 2 == 0:
        pipeline.model, pipeline.whole_ctx = shorter(encoder, frames // 2), whole


def read_pad_to(said: str | None) -> float | None:
    if said is None:
        return CHUNK_LENGTH
    if said == "None":
        return None
    try:
        seconds = float(said)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_SECONDS:
        raise ParityError(
            f"the dump says pad_to {said!r}; expected seconds, up to {MAX_SECONDS}, or None"
        )
    return seconds


def convention_of(convention: str | Convention) -> Convention:
    try:
        return named_convention(convention)
    except ValueError as error:
        raise ParityError(str(error)) from error
