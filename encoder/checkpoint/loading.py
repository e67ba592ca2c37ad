"""Reads the encoder's tensors out of a Whisper checkpoint, and nothing else.

A checkpoint maps names to tensors. Seven file formats are read (safetensors and PyTorch pickles,
whole or in shards, openai-whisper's own `.pt`, whisper.cpp's ggml and MLX's npz), with the names of
Hugging Face, of OpenAI or of this package, under any prefix (`names.py`). The result is always the
same: our names, one order, shapes that were checked before the first byte was read.

Only the encoder's bytes are read: 1.3 GB of the 3.1 GB of a float16 large-v3. Each tensor goes from
the file straight to its final dtype and device, so that peak memory is the result plus one tensor.
Every tensor owns its memory. `safetensors.safe_open` would return views of the mapped file, whose
values change when a new checkpoint is written over it.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from melfront.command import lacks_memory, one_line, replacing, shorten

from ..config import AROUND, TOWERS, EncoderConfig, audio_part
from .files import CheckpointError, Stored, read_json
from .formats import open_file
from .hub import Get, locate
from .mlx import sinusoids
from .names import LAYER, PREFIX, Layout, hf_name, inside, recognise, rows, shapes, some

LOG = logging.getLogger(__name__)
POSITIONS = "encoder.positional_embedding"
MOST_OFF = 0.1  # rms; that of the whole table is 0.71
MOST_POSITIONS = 1 << 14  # they are allocated on the word of a config.json; Whisper has 1500


def load(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    config: EncoderConfig | None = None,
    prefix: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    check_finite: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """The dimensions and the weights of an encoder.

    name_or_path: a folder, a file (.safetensors, .bin, .pt, .ckpt, .npz), or a name on the Hub:
        "openai/whisper-tiny", in short "whisper-tiny" or "tiny". A file or folder of that name
        comes first, then the caches (HF_HOME and HF_HUB_OFFLINE apply), then the Hub: `hub.py`.
    dtype: of the result; None keeps each tensor's stored dtype.
    config: None reads config.json, or the `dims` of an openai-whisper file. Without either, the
        dimensions are those of the tensors, with one head per 64 channels, as in every Whisper.
    prefix: of the names of the encoder's tensors, such as "audio_tower."; None finds it.
    revision, local_files_only: as in `huggingface_hub.hf_hub_download`.
    check_finite: False also accepts weights that are NaN or infinite, in the file or in `dtype`.
    progress: called as progress(number of tensors read, number of tensors in all).

    Returns the tensors under our names, as in `shapes(config)`; of another model than Whisper, a
    line of the log says what is left out. Raises CheckpointError, which lists the misfits.
    """
    name = os.fspath(name_or_path)
    try:
        listed: set[str] = set()  # the encoder's tensors, if an index says which file has which
        path, get = locate(name, revision, local_files_only, partial(_wanted, prefix, listed))
        tensors, dims, names = _open(path, get, prefix, listed)
        layout = recognise(names, path, prefix)
        config, about = (config, {}) if config else _config(path, get, dims, layout, tensors)
        if problems := _problems(config, names, layout, tensors):
            raise CheckpointError(f"{path} does not fit {config}: {problems}")
        _say_what_is_left_out(path, about, layout.prefix, names)
        weights: dict[str, Tensor] = {}
        for ours, theirs in layout.found.items():
            weights[ours] = weight = _read(path, tensors[theirs], dtype, device)
            if check_finite:
                _refuse_unless_finite(path, theirs, weight)
            if progress:
                progress(len(weights), len(layout.found))
        _warn_of_others(path, layout.found["positions"], weights["positions"])
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"{error.filename or name} cannot be read: {reason}") from error
    return config, weights


def save_hf(
    folder: str | os.PathLike[str],
    config: EncoderConfig,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
) -> None:
    """Write an encoder as Hugging Face stores it: config.json and model.safetensors, no decoder.

    weights: as `load` returns them; the file has transformers' names, under `model.encoder.`.
    dtype: of the file; None keeps each tensor's own.
    Raises CheckpointError if the weights do not fit the config, OSError if the folder cannot be
    written to. Each file is written whole or not at all.
    """
    from safetensors.torch import save_file

    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wrong := sorted({name for name, _ in given.items() ^ shapes(config).items()}):
        raise CheckpointError(f"these weights do not fit {config}: {some(wrong)}")
    tensors = {
        PREFIX + hf_name(name): tensor.detach().to("cpu", dtype).contiguous()
        for name, tensor in weights.items()
    }
    names = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}
    about = {"architectures": ["WhisperModel"], **config.to_hf()}
    if len(names) == 1:
        about["dtype"] = names.pop()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})  # transformers asks for the format
    with replacing(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _open(
    path: Path, get: Get, prefix: str | None, listed: set[str]
) -> tuple[dict[str, Stored], Any, Collection[str]]:
    """The tensors of a checkpoint, its `dims` if it has them, and every name that it lists.

    Of a checkpoint in shards, only those that hold a tensor of the encoder are opened; `listed`
    gets the names of the encoder's tensors in all of them.
    """
    if not path.name.endswith(".index.json"):
        tensors, dims = open_file(path)
        tensors |= _positions(path, get, tensors)
        return tensors, dims, tensors
    where = read_json(path).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(shard, str) for shard in where.values()):
        raise CheckpointError(f"{path} has no weight_map to say which tensor is in which file")
    layout = recognise(where, path, prefix)
    listed.update(inside(where, layout))
    tensors = {}
    for shard in sorted({where[name] for name in layout.found.values()}):
        if not _is_beneath(shard):
            raise CheckpointError(f"{path} points out of its folder, to {shard}: not followed")
        if (file := get(shard)) is None:
            raise CheckpointError(f"{path} lists tensors of the encoder in {shard}: no such file")
        held = open_file(file)[0].items()
        tensors |= {name: stored for name, stored in held if where.get(name) == shard}
    return tensors, None, where


def _positions(path: Path, get: Get, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The positions of a checkpoint of MLX, which has none; of any other, nothing."""
    conv = tensors.get("encoder.conv2.weight")
    if conv is None or "encoder.blocks.0.mlp.0.weight" not in tensors or POSITIONS in tensors:
        return {}
    described = get("config.json")
    n_positions = read_json(described).get("n_audio_ctx") if described else None
    if type(n_positions) is not int or not 0 < n_positions <= MOST_POSITIONS:
        return {}
    shape = n_positions, conv.shape[0]
    LOG.warning(
        "%s has no positions: computed in float32, as MLX does, 1e-4 apart by machine", path
    )
    return {POSITIONS: Stored(shape, torch.float32, lambda target: target.copy_(sinusoids(*shape)))}


def _is_beneath(shard: str) -> bool:
    """Does a file name from an index stay in the index's folder, on every system?

    Symbolic links are followed: the Hub's cache consists of them, and people use them to keep
    weights on another disk. Making a link takes write access; an index is only text.
    """
    kinds = PurePosixPath(shard), PureWindowsPath(shard)
    return not any(kind.anchor or ".." in kind.parts for kind in kinds)


# --- does it fit --------------------------------------------------------------------------------


def _wanted(
    prefix: str | None, listed: set[str], names: Collection[str], path: Path
) -> Collection[str]:
    """What to download of a file on the Hub, of all tensors' names in it.

    All under the encoder's prefix, so that a file is refused for what would refuse a local one. The
    whole file if the caller named a prefix: another call may name another.
    """
    if prefix is not None:
        return names
    return listed.intersection(names) if listed else inside(names, recognise(names, path))


def _config(
    path: Path, get: Get, dims: Any, layout: Layout, tensors: Mapping[str, Stored]
) -> tuple[EncoderConfig, Mapping[str, Any]]:
    """The dimensions that the checkpoint states, or else its tensors have; config.json, if read."""
    try:
        if dims is not None:
            return EncoderConfig.from_openai(dims), {}
        if described := get("config.json"):
            path = described
            about = read_json(path)
            if "n_audio_state" in about:  # MLX's
                return EncoderConfig.from_openai(about), about
            return EncoderConfig.from_hf(about), about
        found = []
        for ours, n_axes in ("conv1.weight", 3), ("positions", 2), ("blocks.0.mlp.fc1.weight", 2):
            name = layout.found[ours]
            if len(shape := tensors[name].shape) != n_axes:
                raise ValueError(f"{name} has shape {shape}, expected {n_axes} axes")
            found.append(shape)
        (state, n_mels, _), (n_ctx, _), (n_mlp, _) = found
        n_layer = 1 + max(int(layer[1]) for name in layout.found if (layer := LAYER.match(name)))
        if state % 64:
            raise ValueError(f"its width {state} is not a multiple of 64, the width of one head")
        return EncoderConfig(n_mels, n_ctx, state, state // 64, n_layer, n_mlp), {}
    except KeyError as error:
        raise CheckpointError(f"{path}: no tensor for {error}, and no config.json") from error
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _say_what_is_left_out(
    path: Path, about: Mapping[str, Any], prefix: str, names: Collection[str]
) -> None:
    """Log one line if the encoder is part of a model that is not Whisper, or seems to be.

    about: the checkpoint's config.json; empty if there is none.
    """
    kind = about.get("model_type")
    if kind in (None, "whisper") and (not prefix or f".{prefix}".endswith(".encoder.")):
        return
    parent = prefix[: prefix.rfind(".", 0, -1) + 1]  # "model." of "model.audio_tower."
    outside = (name.removeprefix(parent) for name in names if not name.startswith(prefix))
    parts = Counter(name.partition(".")[0] for name in outside)
    left_out = [f"{part} ({n} tensor{'s' * (n > 1)})" for part, n in parts.items()]
    tower = audio_part(about).get("model_type")
    if beside := TOWERS.get(str(tower)) or AROUND.get(str(kind)):
        left_out.insert(0, beside)
    if left_out:
        read = f"{path}: read {prefix}*" + (f" of {kind}" if kind else "")
        LOG.warning("%s", one_line(f"{read}; left out: {some(left_out)}"))


def _read(
    path: Path, stored: Stored, dtype: torch.dtype | None, device: torch.device | str
) -> Tensor:
    try:
        weight = torch.empty(stored.shape, dtype=dtype or stored.dtype, device=device)
        stored.read_into(weight)
    except (MemoryError, RuntimeError) as error:
        if lacks_memory(error):
            raise CheckpointError(f"{path}: too little memory for its weights ({error})") from error
        raise
    return weight


def _refuse_unless_finite(path: Path, name: str, weight: Tensor) -> None:
    """Checks the minimum and the maximum, which are NaN if any value is; makes no copy."""
    if weight.is_meta or all(bool(extreme.isfinite()) for extreme in weight.aminmax()):
        return
    found = f"{path}: {name} has values that are NaN or infinite in {weight.dtype}"
    raise CheckpointError(f"{found}; if that is intended, pass check_finite=False")


def _shared(tensors: Mapping[str, Stored]) -> list[str]:
    """The tensors that begin in another's bytes: a small file could ask for any memory so."""
    places = sorted((x.place, name) for name, x in tensors.items() if x.place)
    shared, last, last_file = [], 0, ""
    for (file, begin, end), name in places:
        if file == last_file and begin < min(last, end):
            shared.append(name)
        last, last_file = max(end, last if file == last_file else 0), file
    return shared


def _warn_of_others(path: Path, name: str, positions: Tensor) -> None:
    """Log one line if positions (T, S) are not Whisper's.

    Every published Whisper has the same table, of which T positions are the first T: sines and
    cosines, rounded to the type. Training moves it by hundredths, because from_pretrained of
    transformers does not freeze it. Of any other table (learned, zeros, sine and cosine in turns,
    one position late) more than a tenth is wrong, by rms. It is not refused: the positions are
    weights like all others, and transformers computes with them too.
    """
    n_positions, state = positions.shape
    if positions.is_meta or state < 4 or state % 2:  # the formula has sines and cosines
        return
    table = sinusoids(n_positions, state).to(positions.device)
    error = (positions.float() - table).square().mean().sqrt().item()
    if not (error <= MOST_OFF):
        LOG.warning(
            "%s",
            one_line(
                f"{path}: {shorten(name, 120)} is {error:.2g} off Whisper's sines and cosines "
                "(rms): the positions of another model, or damaged"
            ),
        )


def _problems(
    config: EncoderConfig, names: Collection[str], layout: Layout, tensors: Mapping[str, Stored]
) -> str:
    """Tensors that are missing, left over, or of a wrong shape or type, as text; "" if none are."""
    if config.n_audio_layer > len(names):  # before the loop below makes names for every layer
        return f"it lists {len(names)} tensors, fewer than its {config.n_audio_layer} layers"
    expected = (layout.prefix + row[layout.column] for row in rows(config.n_audio_layer))
    want = dict(zip(expected, shapes(config).values(), strict=True))
    have = {name: tensors[name] for name in want if name in tensors}
    surplus = [name for name in inside(names, layout) if name not in want]
    k_bias = any(name.endswith(("k_proj.bias", "key.bias", "attn.k.bias")) for name in surplus)
    groups = {
        "missing": [f"{name} {shape}" for name, shape in want.items() if name not in have],
        "left over" + k_bias * " (Whisper's k projection has no bias)": surplus,
        "of a wrong shape": [
            f"{n} {x.shape}, expected {want[n]}"
            for n, x in have.items()
            if x.shape != want[n] and isinstance(x.dtype, torch.dtype)
        ],
        "of a type other than float16, bfloat16, float32 and float64": [
            f"{n} {x.dtype}" for n, x in have.items() if not isinstance(x.dtype, torch.dtype)
        ],
        "of the bytes of another": _shared(have),
    }
    return "; ".join(
        f"{len(group)} {what}: {some(group)}" for what, group in groups.items() if group
    )
