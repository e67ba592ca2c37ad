"""Find out what a dump is of - clip, model, features - from options, metadata and shapes."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

import melfront
from encoder import WhisperEncoder
from encoder.built_in import MAX_MELS, is_n_mels
from melfront.audio import SAMPLE
from melfront.conventions import CHUNK_LENGTH, named_convention

from . import signals, stages
from .files.sampling import N_SAMPLES
from .files.tensors import Dump, ParityError, Tensor
from .pipeline import MAX_SECONDS, Subject, load_model, model_digest

DEFAULT = "default"
MAX_LAYERS = 1000  # the largest Whisper has 32
GIVEN_MODEL = "the encoder given"  # its name, where it was an object and not a file
SAME = {
    "clip_sha256": "clip",
    "model_sha256": "model",
    "n_mels": "number of mel bins",
    "convention": "convention",
}


def resolve(
    given: Dump,
    held: Dump | None,
    audio: Any = None,
    model: Any = None,
    n_mels: int | None = None,
    convention: Any = None,
    pad_to: Any = DEFAULT,
    check_range: bool = True,
) -> Subject:
    """The subject of a comparison: options first, then the files' metadata, then the sample clip.

    Raises ParityError where the files contradict each other or the options.
    """
    ours, theirs = given.metadata, held.metadata if held else {}
    for key, what in SAME.items():
        if key in ours and key in theirs and ours[key] != theirs[key]:
            raise ParityError(
                f"the dumps are of another {what}: {named(ours, key)} and {named(theirs, key)}; "
                "compare dumps of the same"
            )
    for dump in (given, held):
        check_sampled(dump or Dump({}, {}))
    said = {**theirs, **ours}
    bins_told = n_mels is not None or "n_mels" in said
    check_range = check_range and said.get("check_range") != "False"
    try:
        clip, clip_name = load_clip(audio, said, check_range)
    except ParityError:
        if held is None or audio is not None:
            raise
        clip, clip_name = None, said["clip"]  # a reference says what is right; not why it is not
    try:
        # A reference is enough without the model: nothing is downloaded for its name's sake.
        encoder, model_name = find_model(model, said, local_only=held is not None and model is None)
    except ParityError:
        if held is None or model is not None:
            raise
        encoder, model_name = None, said["model"]
    if n_mels is None:
        n_mels = encoder.config.n_mels if encoder else guess_n_mels(given, said)
    elif not 1 <= n_mels <= MAX_MELS:
        raise ParityError(f"--n-mels {n_mels}; expected 1 to {MAX_MELS}")
    elif encoder and encoder.config.n_mels != n_mels:
        raise ParityError(f"--n-mels {n_mels}, but {model_name} takes {encoder.config.n_mels} bins")
    if pad_to == DEFAULT:
        pad_to = read_pad_to(said.get("pad_to"))
    elif pad_to is not None and not 0 < pad_to <= MAX_SECONDS:
        raise ParityError(f"--pad-to {pad_to:g}; expected seconds above 0, up to {MAX_SECONDS}")
    if encoder is not None and pad_to == CHUNK_LENGTH:
        pad_to = encoder.config.n_frames / 100  # a toy encoder hears less than 30 s
    try:
        chosen = named_convention(convention or said.get("convention") or "transformers")
    except ValueError as error:
        raise ParityError(str(error)) from error
    subject = Subject(clip, encoder, n_mels, chosen, pad_to, clip_name, model_name)
    subject.check_range = check_range
    if clip is not None:
        check_made_from("clip", ours, theirs, clip_name, subject.clip_digest, audio is not None)
    if encoder:
        check_made_from("model", ours, theirs, model_name, model_digest(encoder), model is not None)
    if encoder is None and held is not None:
        subject.layers = layers_named(held, given)
        names = stages.canonical(list(given.tensors), subject.layers).values()
        subject.bins_told = bins_told or not set(stages.front_end_names()).isdisjoint(names)
    return subject


def check_sampled(dump: Dump) -> None:
    """Raises ParityError where a tensor is not the sample that the metadata says it is."""
    for name, shape in dump.sampled.items():
        values = dump.tensors[name].values if name in dump.tensors else None
        if values is not None and values.shape != (min(math.prod(shape), N_SAMPLES),):
            raise ParityError(
                f"{name}: shape {values.shape}, but the metadata 'sampled' says {N_SAMPLES} values "
                f"of {shape}; take what `dump` wrote"
            )


def of_signal(
    name: str, n_mels: int, model: WhisperEncoder | None = None, model_name: str = ""
) -> Subject:
    """A signal of reference_data at its own length, as in the dumps there."""
    clip = name if name == "sample" else signals.PREFIX + name
    return Subject(
        signals.load(name),
        model,
        n_mels,
        pad_to=signals.SIGNALS[name].pad_to,
        clip_name=clip,
        model_name=model_name,
    )


def first_window(dump: Dump, subject: Subject) -> Dump:
    """Of tensors that hold every window of a long clip, (W, M, F), the first: what is compared.

    So our own commands write a clip that is longer than a window.
    """
    clip = subject.audio
    if not isinstance(clip, np.ndarray) or clip.ndim != 1 or len(clip) <= subject.length:
        return dump
    windows = -(-len(clip) // subject.length)

    def first(name: str, tensor: Tensor) -> Tensor:
        axes = len(stages.find(names[name]).shape) if name in names else 0
        several = tensor.values.ndim == axes + 1 and len(tensor.values) == windows
        # An axis more in attention is that of the heads.
        if not several or ".attn." in name:
            return tensor
        return tensor._replace(values=tensor.values[0])

    names = stages.canonical(list(dump.tensors), subject.n_layer)
    return dump._replace(tensors={name: first(name, x) for name, x in dump.tensors.items()})


def named(metadata: dict[str, str], key: str) -> str:
    """What a dump says of this key of SAME; instead of a hash, the name and how it begins."""
    value = metadata[key]
    return f"{metadata.get(SAME[key])!r} ({value[:12]}...)" if key.endswith("_sha256") else value


def check_made_from(
    what: str, ours: dict[str, str], theirs: dict[str, str], used: str, sha: str, asked: bool
) -> None:
    """Raises ParityError where a file was made from another clip or model than the one `used`.

    asked: whether that one was asked for, and not taken from what the files say.
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
                "compare dumps of the same"
            )
        raise ParityError(
            f"{file} is of the {what} {name!r}, not of {used!r}: pass that {what} with {option}"
        )


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
        return [read_clip(path, check_range) for path in audio], ", ".join(
            str(path) for path in audio
        )
    return audio, "the array given"


def is_built_in(name: str) -> bool:
    """Is it the name of a clip that is no file of the reader's: `sample`, `signal:speech`?"""
    return name == "sample" or name.startswith(signals.PREFIX)


def read_clip(path: str | os.PathLike[str], check_range: bool) -> Any:
    try:
        if isinstance(path, str) and path.startswith(signals.PREFIX):
            return signals.load(path.removeprefix(signals.PREFIX))
        return melfront.load_audio(path, check_range)
    except (ValueError, OSError) as error:  # AudioError is one
        raise ParityError(str(error)) from error


def find_model(
    model: Any, said: dict[str, str], local_only: bool
) -> tuple[WhisperEncoder | None, str]:
    """The model in float32 on the CPU, and its name."""
    if isinstance(model, WhisperEncoder):
        weights = {name: w.detach().cpu().float() for name, w in model.state_dict().items()}
        return WhisperEncoder.from_weights(model.config, weights), GIVEN_MODEL
    name = str(model or said.get("model") or "")
    if name == GIVEN_MODEL and not model:
        raise ParityError("the dump is of a model that was no file: pass it as the model")
    return (load_model(name, local_only), name) if name else (None, "")


def guess_n_mels(given: Dump, said: dict[str, str]) -> int:
    """80 or 128, by the metadata or by the shape of the features; 128 if nothing tells."""
    if "n_mels" in said:
        if not is_n_mels(said["n_mels"]):
            raise ParityError(
                f"the dump says n_mels {said['n_mels']!r}; expected a number, 1 to {MAX_MELS}"
            )
        return int(said["n_mels"])
    names = stages.canonical(list(given.tensors), layers_named(given))
    mel_stages = {"mel", "log", "clamped", "features"}
    for name, stage in names.items():
        if stage in mel_stages:
            for size in given.tensors[name].values.shape[-2:]:
                if size in (80, 128):
                    return int(size)
    return 128


def layers_named(*dumps: Dump) -> int:
    """How many blocks the names of these dumps speak of. Raises ParityError for absurdly many."""
    numbers = [-1]
    for dump in dumps:
        for name in dump.tensors:
            if found := re.match(r"block\.(\d+)\.", name):
                if len(found[1]) > 9 or int(found[1]) >= MAX_LAYERS:
                    raise ParityError(f"{name}: expected a block's number below {MAX_LAYERS}")
                numbers.append(int(found[1]))
    return 1 + max(numbers)


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
