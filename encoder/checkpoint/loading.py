"""Reads the encoder's tensors out of a Whisper checkpoint, and nothing else.

A checkpoint maps names to tensors. Five file formats are read (safetensors and PyTorch pickles,
whole or in shards, and openai-whisper's own `.pt`), with the names of Hugging Face, of OpenAI or of
this package, under the prefix `model.encoder.`, `encoder.` or none. The result is always the same:
our names, one order, shapes that were checked before the first byte was read.

Only the encoder's bytes are read: 1.3 GB of the 3.1 GB of a float16 large-v3. Each tensor goes from
the file straight to its final dtype and device, so that peak memory is the result plus one tensor.
Every tensor owns its memory. `safetensors.safe_open` would return views of the mapped file, whose
values change when a new checkpoint is written over it.
"""

# M mel bins  T positions  S state  N inner width of the MLP

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from melfront.command import replacing, shorten

from ..config import EncoderConfig
from .files import CheckpointError, Stored, open_file, read_json
from .hub import Get, locate

# There is no row for the bias of k, because Whisper has none: it would add the same number to
# every score of a query, and softmax cancels it.
TABLE = """
conv1.weight               conv1.weight                           conv1.weight                 S,M,3
conv1.bias                 conv1.bias                             conv1.bias                   S
conv2.weight               conv2.weight                           conv2.weight                 S,S,3
conv2.bias                 conv2.bias                             conv2.bias                   S
positions                  embed_positions.weight                 positional_embedding         T,S

blocks.{}.attn_ln.weight   layers.{}.self_attn_layer_norm.weight  blocks.{}.attn_ln.weight     S
blocks.{}.attn_ln.bias     layers.{}.self_attn_layer_norm.bias    blocks.{}.attn_ln.bias       S
blocks.{}.attn.q.weight    layers.{}.self_attn.q_proj.weight      blocks.{}.attn.query.weight  S,S
blocks.{}.attn.q.bias      layers.{}.self_attn.q_proj.bias        blocks.{}.attn.query.bias    S
blocks.{}.attn.k.weight    layers.{}.self_attn.k_proj.weight      blocks.{}.attn.key.weight    S,S
blocks.{}.attn.v.weight    layers.{}.self_attn.v_proj.weight      blocks.{}.attn.value.weight  S,S
blocks.{}.attn.v.bias      layers.{}.self_attn.v_proj.bias        blocks.{}.attn.value.bias    S
blocks.{}.attn.out.weight  layers.{}.self_attn.out_proj.weight    blocks.{}.attn.out.weight    S,S
blocks.{}.attn.out.bias    layers.{}.self_attn.out_proj.bias      blocks.{}.attn.out.bias      S
blocks.{}.mlp_ln.weight    layers.{}.final_layer_norm.weight      blocks.{}.mlp_ln.weight      S
blocks.{}.mlp_ln.bias      layers.{}.final_layer_norm.bias        blocks.{}.mlp_ln.bias        S
blocks.{}.mlp.fc1.weight   layers.{}.fc1.weight                   blocks.{}.mlp.0.weight       N,S
blocks.{}.mlp.fc1.bias     layers.{}.fc1.bias                     blocks.{}.mlp.0.bias         N
blocks.{}.mlp.fc2.weight   layers.{}.fc2.weight                   blocks.{}.mlp.2.weight       S,N
blocks.{}.mlp.fc2.bias     layers.{}.fc2.bias                     blocks.{}.mlp.2.bias         S

ln_post.weight             layer_norm.weight                      ln_post.weight               S
ln_post.bias               layer_norm.bias                        ln_post.bias                 S
"""
OURS, HF, OPENAI, SHAPE = range(4)  # the columns of the table
STEM, BLOCK, POST = (
    [line.split() for line in part.splitlines()] for part in TABLE.strip().split("\n\n")
)
PREFIXES = ("model.encoder.", "encoder.", "")
LAYER = re.compile(r"(?:layers|blocks)\.(\d{1,3})\.")


class Layout(NamedTuple):
    """How a checkpoint names the encoder's tensors."""

    prefix: str
    column: int  # of the table
    found: dict[str, str]  # our name -> its name in the checkpoint


def load(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    config: EncoderConfig | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    check_finite: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """The dimensions and the weights of an encoder.

    name_or_path: a folder, a file (.safetensors, .bin, .pt), or a name on the Hugging Face Hub:
        "openai/whisper-tiny", in short "whisper-tiny" or "tiny". A file or folder of that name
        comes first, then the local Hub cache (HF_HOME and HF_HUB_OFFLINE apply), then the Hub, of
        which only the byte ranges of the encoder are read (`hub.py` says where they are kept).
    dtype: of the result; None keeps each tensor's stored dtype.
    config: None reads config.json, or the `dims` of an openai-whisper file. Without either, the
        dimensions are inferred from the tensors' shapes, with one head per 64 channels, as in
        every published size.
    revision, local_files_only: as in `huggingface_hub.hf_hub_download`.
    check_finite: False also accepts weights that are NaN or infinite, in the file or in `dtype`.
    progress: called as progress(number of tensors read, number of tensors in all).

    Returns the tensors under our names, in the order and with the shapes of `shapes(config)`.
    Raises CheckpointError; it lists every tensor that is missing, left over or of a wrong shape.
    """
    name = os.fspath(name_or_path)
    try:
        path, get = locate(name, revision, local_files_only, _encoder_names)
        tensors, dims, names = _open(path, get)
        layout = _recognise(names, path)
        config = config or _config(path, get, dims, layout, tensors)
        if problems := _problems(config, names, layout, tensors):
            raise CheckpointError(f"{path} does not fit {config}: {problems}")
        weights: dict[str, Tensor] = {}
        for ours, theirs in layout.found.items():
            shape, stored_dtype, read_into = tensors[theirs]
            weight = weights[ours] = torch.empty(shape, dtype=dtype or stored_dtype, device=device)
            read_into(weight)
            if check_finite and not _is_finite(weight):
                found = f"{path}: {theirs} has values that are NaN or infinite in {weight.dtype}"
                raise CheckpointError(f"{found}; if that is intended, pass check_finite=False")
            if progress:
                progress(len(weights), len(layout.found))
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
        raise CheckpointError(f"these weights do not fit {config}: {_some(wrong)}")
    tensors = {
        PREFIXES[0] + hf_name(name): tensor.detach().to("cpu", dtype).contiguous()
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


def shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every weight, by our name, in the order of the forward pass."""
    sizes = {
        "M": config.n_mels,
        "T": config.n_audio_ctx,
        "S": config.n_audio_state,
        "N": config.n_audio_mlp,
        "3": 3,  # the kernel of both convolutions
    }
    rows = _rows(config.n_audio_layer)
    return {row[OURS]: tuple(sizes[axis] for axis in row[SHAPE].split(",")) for row in rows}


def hf_name(ours: str) -> str:
    """transformers' name of a weight, without prefix: blocks.3.mlp.fc1.bias, layers.3.fc1.bias."""
    return _name(ours, HF)


def openai_name(ours: str) -> str:
    """openai-whisper's name of a weight: blocks.3.mlp.fc1.bias, blocks.3.mlp.0.bias."""
    return _name(ours, OPENAI)


def _name(ours: str, column: int) -> str:
    layer = LAYER.match(ours)
    name = LAYER.sub("blocks.{}.", ours, count=1)
    for row in STEM + BLOCK + POST:
        if row[OURS] == name:
            return row[column].format(layer and layer[1])
    raise KeyError(f"the encoder has no weight {ours!r}")


def _rows(n_layer: int) -> Iterator[list[str]]:
    """The rows of the table, with those of a block repeated for every layer."""
    yield from STEM
    for i in range(n_layer):
        for row in BLOCK:
            yield [cell.format(i) for cell in row]
    yield from POST


def _open(path: Path, get: Get) -> tuple[dict[str, Stored], Any, Collection[str]]:
    """The tensors of a checkpoint, its `dims` if it has them, and every name that it lists.

    Of a checkpoint in shards, only those that hold a tensor of the encoder are opened.
    """
    if not path.name.endswith(".index.json"):
        tensors, dims = open_file(path)
        return tensors, dims, tensors
    where = read_json(path).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(shard, str) for shard in where.values()):
        raise CheckpointError(f"{path} has no weight_map to say which tensor is in which file")
    tensors = {}
    for shard in sorted({where[name] for name in _recognise(where, path).found.values()}):
        if not _is_beneath(shard):
            raise CheckpointError(f"{path} points out of its folder, to {shard}: not followed")
        if (file := get(shard)) is None:
            raise CheckpointError(f"{path} lists tensors of the encoder in {shard}: no such file")
        held = open_file(file)[0].items()
        tensors |= {name: stored for name, stored in held if where.get(name) == shard}
    return tensors, None, where


def _is_beneath(shard: str) -> bool:
    """Does a file name from an index stay in the index's folder, on every system?

    Symbolic links are followed: the Hub's cache consists of them, and people use them to keep
    weights on another disk. Making a link takes write access; an index is only text.
    """
    kinds = PurePosixPath(shard), PureWindowsPath(shard)
    return not any(kind.anchor or ".." in kind.parts for kind in kinds)


# --- does it fit --------------------------------------------------------------------------------


def _recognise(names: Collection[str], path: Path) -> Layout:
    """The prefix and the column of the table that match the most names."""
    layouts = []
    for prefix, column in itertools.product(PREFIXES, (HF, OPENAI, OURS)):
        inside = (LAYER.match(n.removeprefix(prefix)) for n in names if n.startswith(prefix))
        rows = _rows(1 + max((int(layer[1]) for layer in inside if layer), default=-1))
        found = {row[OURS]: name for row in rows if (name := prefix + row[column]) in names}
        layouts.append(Layout(prefix, column, found))
    best = max(layouts, key=lambda layout: len(layout.found))
    if not best.found:
        raise CheckpointError(
            f"{path} has no tensor of a Whisper encoder; it has {_some(names, 3)}"
        )
    return best


def _inside(names: Collection[str], layout: Layout) -> list[str]:
    """The names under the encoder's prefix, also those of no tensor that it has."""
    other = ("decoder.", "proj_out.")  # where the prefix is empty
    return [n for n in names if n.startswith(layout.prefix) and not n.startswith(other)]


def _encoder_names(names: Collection[str], path: Path) -> list[str]:
    """What to read of a file on the Hub, so that it is refused for what a whole file would be."""
    return _inside(names, _recognise(names, path))


def _config(
    path: Path, get: Get, dims: Any, layout: Layout, tensors: Mapping[str, Stored]
) -> EncoderConfig:
    """The dimensions that the checkpoint states, or else those of its tensors."""
    try:
        if dims is not None:
            return EncoderConfig.from_openai(dims)
        if described := get("config.json"):
            path = described
            return EncoderConfig.from_hf(read_json(path))
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
        return EncoderConfig(n_mels, n_ctx, state, state // 64, n_layer, n_mlp)
    except KeyError as error:
        raise CheckpointError(f"{path}: no tensor for {error}, and no config.json") from error
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _is_finite(weight: Tensor) -> bool:
    """Checks the minimum and the maximum, which are NaN if any value is; makes no copy."""
    return weight.is_meta or all(bool(extreme.isfinite()) for extreme in weight.aminmax())


def _problems(
    config: EncoderConfig, names: Collection[str], layout: Layout, tensors: Mapping[str, Stored]
) -> str:
    """Tensors that are missing, left over, or of a wrong shape or type, as text; "" if none are."""
    if config.n_audio_layer > len(names):  # before the loop below makes names for every layer
        return f"it lists {len(names)} tensors, fewer than its {config.n_audio_layer} layers"
    expected = (layout.prefix + row[layout.column] for row in _rows(config.n_audio_layer))
    want = dict(zip(expected, shapes(config).values(), strict=True))
    have = {name: tensors[name] for name in want if name in tensors}
    surplus = [name for name in _inside(names, layout) if name not in want]
    k_bias = any(name.endswith(("k_proj.bias", "key.bias", "attn.k.bias")) for name in surplus)
    groups = {
        "missing": [f"{name} {shape}" for name, shape in want.items() if name not in have],
        "left over" + k_bias * " (Whisper's k projection has no bias)": surplus,
        "of a wrong shape": [
            f"{n} {x.shape}, expected {want[n]}" for n, x in have.items() if x.shape != want[n]
        ],
        "of a type other than float16, bfloat16, float32 and float64": [
            f"{n} {x.dtype}" for n, x in have.items() if not isinstance(x.dtype, torch.dtype)
        ],
    }
    return "; ".join(
        f"{len(group)} {what}: {_some(group)}" for what, group in groups.items() if group
    )


def _some(names: Collection[str], most: int = 10) -> str:
    """The first few, and how many more there are."""
    more = len(names) - most
    first = [shorten(name, 120) for name in list(names)[:most]]
    return ", ".join(first) + (f", and {more} more" if more > 0 else "")
