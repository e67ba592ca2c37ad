"""Reads the encoder's tensors out of a Whisper checkpoint, and nothing else of it.

A checkpoint is a dictionary from names to tensors. Five layouts of the file are read (safetensors
and PyTorch pickles, whole or in shards, and openai-whisper's own `.pt`), with the names of Hugging
Face, of OpenAI or of this package, under the prefix `model.encoder.`, `encoder.` or none. All come
out the same: our names, one order, shapes that are checked before the first byte is read.

Only the encoder's bytes are read: 1.3 GB of the 3.1 GB of a float16 large-v3. Each tensor goes
from the file straight into its final dtype and place, so that the most memory ever held is the
result and one tensor. Every tensor owns its memory. `safetensors.safe_open` would hand out
views of the mapped file, whose values change when somebody writes a new checkpoint over it.
"""

# M mel bins  T positions  S state  N inner width of the MLP

from __future__ import annotations

import difflib
import itertools
import json
import math
import os
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .config import SIZES, EncoderConfig

# There is no row for the bias of k, because Whisper has none: it would add the same number to
# every score of a query, and softmax does not see that.
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

WEIGHT_FILES = (  # in order of preference
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
DTYPES = {  # by safetensors' names; what is stored in any other type is quantised, or no weight
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


class CheckpointError(ValueError):
    """A checkpoint that cannot be found, read, or fitted to the encoder. One line."""


class Stored(NamedTuple):
    """A tensor that is still in its file."""

    shape: tuple[int, ...]
    dtype: torch.dtype | str  # a name, where it is none of DTYPES
    into: Callable[[Tensor], object]  # reads it into a tensor of any dtype, on any device


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
    progress: Callable[[int, int], object] | None = None,
) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """The dimensions and the weights of an encoder.

    name_or_path: a folder, a file (.safetensors, .bin, .pt), or a name on the Hugging Face Hub:
        "openai/whisper-tiny", in short "whisper-tiny" or "tiny". A file or folder of that name
        wins; then the local Hub cache (HF_HOME and HF_HUB_OFFLINE are honoured), then the Hub.
    dtype: of the result; None keeps what is on disk, tensor by tensor.
    config: None takes config.json, or the `dims` of an openai-whisper file. A file with neither
        has its dimensions read off the tensors' shapes, and one head for every 64 of its width,
        which is true of every published size.
    revision, local_files_only: as in `huggingface_hub.hf_hub_download`.
    progress: called as progress(tensors read, tensors in all).

    Returns the tensors under our names, in the order and with the shapes of `shapes(config)`.
    Raises CheckpointError, which lists every tensor that is missing, left over or ill-shaped.
    """
    path, get = _locate(os.fspath(name_or_path), revision, local_files_only)
    tensors, dims, names = _open(path, get)
    layout = _recognise(names, path)
    config = config or _config(path, get, dims, layout, tensors)
    if problems := _problems(config, names, layout, tensors):
        raise CheckpointError(f"{path} does not fit {config}: {problems}")

    weights: dict[str, Tensor] = {}
    for ours, shape in shapes(config).items():
        stored = tensors[layout.found[ours]]
        assert isinstance(stored.dtype, torch.dtype)  # else it would be among the problems
        weights[ours] = torch.empty(shape, dtype=dtype or stored.dtype, device=device)
        stored.into(weights[ours])
        if progress:
            progress(len(weights), len(layout.found))
    return config, weights


def save_hf(
    folder: str | os.PathLike[str],
    config: EncoderConfig,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
) -> None:
    """Writes an encoder as Hugging Face has it: config.json and model.safetensors, no decoder.

    weights: as `load` returns them; in the file they have transformers' names, under
    `model.encoder.`. A file appears under its name when it is complete.
    Raises CheckpointError when the weights do not fit the config.
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
    temporary = folder / f".{os.getpid()}.tmp"
    try:
        save_file(tensors, temporary, metadata={"format": "pt"})  # transformers asks for the format
        temporary.replace(folder / "model.safetensors")
        temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        temporary.replace(folder / "config.json")
    finally:
        temporary.unlink(missing_ok=True)


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
    layer = LAYER.match(ours)
    name = LAYER.sub("blocks.{}.", ours, count=1) if layer else ours
    for row in STEM + BLOCK + POST:
        if row[OURS] == name:
            return row[HF].format(layer and layer[1])
    raise KeyError(f"{ours!r} is no weight of the encoder")


def _rows(n_layer: int) -> Iterator[list[str]]:
    """The table, written out for every layer."""
    yield from STEM
    for i in range(n_layer):
        for row in BLOCK:
            yield [cell.format(i) for cell in row]
    yield from POST


# --- which file ---------------------------------------------------------------------------------

Get = Callable[[str], Path | None]  # a file of the same folder or repository, by its name


def _locate(name: str, revision: str | None, local_only: bool) -> tuple[Path, Get]:
    """The file that holds, or lists, the weights; and how to get at those beside it."""
    path = Path(name).expanduser()
    folder = path if path.is_dir() else path.parent

    def beside(filename: str) -> Path | None:
        return folder / filename if (folder / filename).is_file() else None

    short = name.removeprefix("whisper-")
    is_repository = re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) and path.suffix not in SUFFIXES
    sources: list[Get] = [beside]
    if path.is_file():
        return path, beside
    if not path.is_dir():
        if short not in SIZES and not is_repository:
            near = difflib.get_close_matches(short, SIZES, n=1)
            raise CheckpointError(
                f"{name!r} is no file or folder here, nor the name of a Whisper model, such as "
                "'tiny' or 'openai/whisper-tiny'"
                + (f"; the nearest known size is {near[0]!r}" if near else "")
            )
        name = _repository(short) if short in SIZES else name
        sources = _hub(name, revision, local_only)

    def get(filename: str) -> Path | None:
        return next(filter(None, (source(filename) for source in sources)), None)

    for source, filename in itertools.product(sources, WEIGHT_FILES):
        if weights := source(filename):
            return weights, get
    raise CheckpointError(f"{name} has no weights; looked for {', '.join(WEIGHT_FILES)}")


def _repository(size: str) -> str:
    """The Hub's name of a published size."""
    if size.startswith("distil-"):
        return f"distil-whisper/{size}"
    return "openai/whisper-" + {"large-v1": "large", "turbo": "large-v3-turbo"}.get(size, size)


def _hub(repository: str, revision: str | None, local_only: bool) -> list[Get]:
    """Where to look for a file of a repository: first the local cache, then the Hub itself."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def cached(filename: str) -> Path | None:
        path = try_to_load_from_cache(repository, filename, revision=revision)
        return Path(path) if isinstance(path, str) else None  # or a mark that there is none

    def download(filename: str) -> Path | None:
        try:
            return Path(
                hf_hub_download(
                    repository, filename, revision=revision, local_files_only=local_only
                )
            )
        except LocalEntryNotFoundError as error:
            raise CheckpointError(
                f"{repository} is no folder here, its {filename} is not in the local Hugging Face "
                f"cache{f' at revision {revision}' if revision else ''}, and the Hub cannot be "
                "reached or is not to be asked; give a local folder, or run "
                f"`hf download {repository}` where there is a network"
            ) from error
        except EntryNotFoundError:  # the repository is there, and has no such file
            return None
        except Exception as error:  # no such repository, no access, a lost connection, a full disk
            reason = str(error).strip().partition("\n")[0]
            raise CheckpointError(f"{repository}: {type(error).__name__}: {reason}") from error

    return [cached, download]


# --- what is in it ------------------------------------------------------------------------------


def _open(path: Path, get: Get) -> tuple[dict[str, Stored], Any, Collection[str]]:
    """The tensors of a checkpoint, its `dims` if it has them, and every name that it lists.

    Of a checkpoint in shards, only those are opened that hold something of the encoder.
    """
    if not path.name.endswith(".index.json"):
        tensors, dims = _open_file(path)
        return tensors, dims, tensors
    where = _json(path).get("weight_map")
    if not isinstance(where, dict):
        raise CheckpointError(f"{path} has no weight_map to say which tensor is in which file")
    tensors = {}
    for shard in sorted({where[name] for name in _recognise(where, path).found.values()}):
        if (file := get(shard)) is None:
            raise CheckpointError(f"{path} lists tensors of the encoder in {shard}: no such file")
        tensors |= _open_file(file)[0]
    return tensors, None, where


def _open_file(path: Path) -> tuple[dict[str, Stored], Any]:
    with path.open("rb") as file:
        start = file.read(24)
    if not start:
        raise CheckpointError(f"{path} is empty")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull`")
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: expected a file named {', '.join(SUFFIXES)}")
    return (_open_safetensors(path), None) if path.suffix == SUFFIXES[0] else _open_pickle(path)


def _open_safetensors(path: Path) -> dict[str, Stored]:
    """The format: 8 bytes with the header's length, the header in JSON, the tensors' bytes.

    https://huggingface.co/docs/safetensors, "Format". Every number is little-endian.
    """
    size = path.stat().st_size
    scratch = torch.empty(0, dtype=torch.uint8)  # one for all tensors: fresh memory costs time

    def read(dtype: torch.dtype, begin: int, end: int, target: Tensor) -> None:
        nonlocal scratch
        raw = target
        if target.dtype != dtype or target.device.type != "cpu":
            if scratch.numel() < end - begin:
                scratch = torch.empty(end - begin, dtype=torch.uint8)
            raw = scratch[: end - begin].view(dtype).view(target.shape)
        with path.open("rb") as file:
            file.seek(start + begin)
            if file.readinto(raw.view(-1).view(torch.uint8).numpy().data) < end - begin:
                raise CheckpointError(f"{path} was cut short while it was read")
        if raw is not target:
            target.copy_(raw)

    def stored(kind: str, shape: tuple[int, ...], begin: int, end: int) -> Stored:
        given = f"a {kind} of shape {shape} in bytes {begin} to {end}"
        if not 0 <= begin <= end <= size - start:
            raise ValueError(f"{given} of {size - start}")
        if (dtype := DTYPES.get(kind)) is None:
            return Stored(shape, kind, lambda target: None)
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(given)
        return Stored(shape, dtype, lambda target: read(dtype, begin, end, target))

    try:
        with path.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(start - 8) if start <= size else "")
        header.pop("__metadata__", None)
        return {
            name: stored(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
            for name, entry in header.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is cut short, damaged, or no safetensors file ({size} bytes; {error})"
        ) from error


def _open_pickle(path: Path) -> tuple[dict[str, Stored], Any]:
    """A PyTorch file. It is mapped, not read; unless it is no zip file, as before PyTorch 1.6."""
    try:
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # what a damaged file raises depends on where the damage is
        if what := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path} holds a {what[1]}, not only tensors. Unpickling that can run any code, "
                "so it is refused: save the model's state_dict, best as safetensors"
            ) from error
        raise CheckpointError(f"{path} is cut short, damaged, or no PyTorch file") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a state_dict")

    def stored(tensor: Tensor) -> Stored:
        dtype = tensor.dtype if tensor.dtype in DTYPES.values() else str(tensor.dtype)
        return Stored(tuple(tensor.shape), dtype, lambda target: target.copy_(tensor.detach()))

    state = content.get("model_state_dict", content)  # openai-whisper's files have it, and dims
    tensors = {name: stored(value) for name, value in state.items() if isinstance(value, Tensor)}
    return tensors, content.get("dims")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected an object")
    return content


# --- does it fit --------------------------------------------------------------------------------


def _recognise(names: Collection[str], path: Path) -> Layout:
    """The prefix and the column of the table that explain most of the names."""
    best = Layout("", HF, {})
    for prefix, column in itertools.product(PREFIXES, (HF, OPENAI, OURS)):
        inside = (LAYER.match(n.removeprefix(prefix)) for n in names if n.startswith(prefix))
        rows = _rows(1 + max((int(layer[1]) for layer in inside if layer), default=-1))
        found = {row[OURS]: name for row in rows if (name := prefix + row[column]) in names}
        if len(found) > len(best.found):
            best = Layout(prefix, column, found)
    if not best.found:
        raise CheckpointError(f"{path} has nothing of a Whisper encoder; it has {_some(names, 3)}")
    return best


def _config(
    path: Path, get: Get, dims: Any, layout: Layout, tensors: Mapping[str, Stored]
) -> EncoderConfig:
    """What the checkpoint says of itself, or else what its tensors' shapes say."""
    try:
        if dims is not None:
            return EncoderConfig.from_openai(dims)
        if described := get("config.json"):
            path = described
            return EncoderConfig.from_hf(_json(path))
        state, n_mels, _ = tensors[layout.found["conv1.weight"]].shape
        n_ctx, _ = tensors[layout.found["positions"]].shape
        n_mlp, _ = tensors[layout.found["blocks.0.mlp.fc1.weight"]].shape
        n_layer = 1 + max(int(layer[1]) for name in layout.found if (layer := LAYER.match(name)))
        if state % 64:
            raise ValueError(f"its width {state} is no multiple of 64, the width of one head")
        return EncoderConfig(n_mels, n_ctx, state, state // 64, n_layer, n_mlp)
    except KeyError as error:
        raise CheckpointError(f"{path}: no tensor for {error}, and no config.json") from error
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _problems(
    config: EncoderConfig,
    names: Collection[str],
    layout: Layout,
    tensors: Mapping[str, Stored],
) -> str:
    """Every tensor that is missing, left over, ill-shaped or of another type; "" if all is well."""
    prefix, column, _ = layout
    rows = {row[OURS]: prefix + row[column] for row in _rows(config.n_audio_layer)}
    want = {rows[ours]: shape for ours, shape in shapes(config).items()}
    have = {name: tensors[name] for name in want if name in tensors}
    surplus = [
        name
        for name in names
        if name not in want
        and name.startswith(prefix)
        and not name.startswith(("decoder.", "proj_out."))  # with no prefix, these are the others'
    ]
    k_bias = any(name.endswith(("k_proj.bias", "key.bias", "attn.k.bias")) for name in surplus)
    groups = {
        "missing": [f"{name} {shape}" for name, shape in want.items() if name not in have],
        "left over" + k_bias * " (Whisper's k projection has no bias)": surplus,
        "of another shape": [
            f"{name} {stored.shape}, expected {want[name]}"
            for name, stored in have.items()
            if stored.shape != want[name]
        ],
        "of a type that is not float16, bfloat16 or float32": [
            f"{name} {stored.dtype}"
            for name, stored in have.items()
            if not isinstance(stored.dtype, torch.dtype)
        ],
    }
    return "; ".join(
        f"{len(group)} {what}: {_some(group)}" for what, group in groups.items() if group
    )


def _some(names: Collection[str], most: int = 10) -> str:
    """The first few, and how many more there are."""
    more = len(names) - most
    return ", ".join(list(names)[:most]) + (f", and {more} more" if more > 0 else "")
