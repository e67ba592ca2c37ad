"""Opens a checkpoint's files. `loading.py` decides which tensors to read.

A checkpoint may come from anyone, so it is not trusted: none of its code is run, no size that it
states is allocated unchecked, and what an error quotes of it is shortened, without control
characters.
"""

from __future__ import annotations

import json
import math
import re
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from melfront.command import lacks_memory, one_line

from . import ggml, mlx
from .foreign import BESIDE, file_kind

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz")
# Under which of these names a PyTorch file has its tensors, if it has something else too:
# openai-whisper (beside `dims`), Lightning, training scripts, DeepSpeed.
STATES = ("model_state_dict", "state_dict", "model", "module")
DTYPES = {  # by safetensors' names; any other type is quantised, or not a weight
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
# Bytes of JSON that are parsed, which take up to 30 times that in memory. large-v3 has 150 kB.
MAX_JSON = 4 << 20


class CheckpointError(ValueError):
    """A checkpoint that cannot be found, read, or fitted to the encoder. One line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Stored(NamedTuple):
    """A tensor that is still in its file."""

    shape: tuple[int, ...]
    dtype: Any  # one of DTYPES, or the name of another type
    read_into: Callable[[Tensor], object]  # reads it into a tensor of any dtype, on any device


# --- what a file holds --------------------------------------------------------------------------


def open_file(path: Path) -> tuple[dict[str, Stored], Any]:
    """The tensors of a file, by name, and its `dims` if it has them. Raises CheckpointError."""
    with path.open("rb") as file:
        start = file.read(24)
    if not start:
        raise CheckpointError(f"{path} is empty")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull`")
    if what := file_kind(path, start):
        raise CheckpointError(f"{path} is {what}")
    if start.startswith(ggml.MAGIC):
        return _open_ggml(path)
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: expected a file named {', '.join(SUFFIXES)}")
    if path.suffix == ".safetensors":
        return _as_torch(_open_safetensors(path)), None
    return (_as_torch(_open_npz(path)), None) if path.suffix == ".npz" else _open_pickle(path)


def _in_file(path: Path) -> Callable[..., Stored]:
    """A function that makes a Stored of a type, as safetensors names it, a shape, begin and end."""
    scratch = torch.empty(0, dtype=torch.uint8)  # shared by all tensors: fresh memory costs time

    def read(dtype: Any, begin: int, end: int, target: Tensor) -> None:
        nonlocal scratch
        direct = target.dtype == dtype and target.device.type == "cpu"
        if not direct and scratch.numel() < end - begin:
            scratch = torch.empty(end - begin, dtype=torch.uint8)
        raw = target if direct else scratch[: end - begin].view(dtype).view(target.shape)
        with path.open("rb") as file:
            file.seek(begin)
            if file.readinto(raw.view(-1).view(torch.uint8).numpy().data) < end - begin:
                raise CheckpointError(f"{path} was cut short while it was read")
        if not direct:
            target.copy_(raw)

    def stored(kind: str, shape: Iterable[int], begin: int, end: int) -> Stored:
        dtype = DTYPES.get(kind)
        return Stored(tuple(shape), dtype or kind, partial(read, dtype, begin, end))

    return stored


def _open_safetensors(path: Path) -> dict[str, Stored]:
    """The format: 8 bytes with the header's length, the header in JSON, the tensors' bytes.

    https://huggingface.co/docs/safetensors, "Format". Every number is little-endian.
    """
    with path.open("rb") as file:
        entries = read_header(file, path.stat().st_size, path)
        start = file.tell()
    stored, tensors = _in_file(path), {}
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        tensors[name] = stored(entry["dtype"], entry["shape"], start + begin, start + end)
    return tensors


def _open_ggml(path: Path) -> tuple[dict[str, Stored], Any]:
    try:
        dims, places = ggml.read(path)
    except ValueError as error:
        raise CheckpointError(
            f"{path} is a ggml model of whisper.cpp: {error}; or give the checkpoint that it was "
            "made from, such as openai/whisper-tiny"
        ) from error
    stored = _in_file(path)
    return {name: stored(*place) for name, place in places.items()}, dims


def _open_npz(path: Path) -> dict[str, Stored]:
    try:
        arrays = mlx.read_npz(path)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    stored, tensors = _in_file(path), {}
    for name, (kind, shape, fortran, *span) in arrays.items():
        in_file = stored(kind, reversed(shape) if fortran else shape, *span)
        tensors[name] = _turned(in_file, *range(len(shape))[::-1]) if fortran else in_file
    return tensors


def _as_torch(tensors: dict[str, Stored]) -> dict[str, Stored]:
    """The same with convolutions as (S, M, K), and mlx-whisper's names as openai-whisper's.

    The kernel is 3 wide in every Whisper: weights of (S, 3, M) are in MLX's layout.
    """
    renamed = mlx.is_layout(tensors)
    result = {}
    for name, stored in tensors.items():
        conv = name.endswith(("conv1.weight", "conv2.weight"))
        swap = conv and stored.shape[1:2] == (3,) and len(stored.shape) == 3 != stored.shape[2]
        result[mlx.openai_name(name) if renamed else name] = (
            _turned(stored, 0, 2, 1) if swap else stored
        )
    return result


def _turned(stored: Stored, *axes: int) -> Stored:
    """The same with its axes in another order."""

    def read_into(target: Tensor) -> None:
        raw = torch.empty(stored.shape, dtype=stored.dtype)
        stored.read_into(raw)
        target.copy_(raw.permute(axes))

    return Stored(tuple(stored.shape[axis] for axis in axes), stored.dtype, read_into)


def read_header(file: BinaryIO, size: int, path: Path) -> dict[str, Any]:
    """What a safetensors file of `size` bytes says of each tensor: dtype, shape and data_offsets.

    Afterwards the file stands where the tensors' bytes begin. Raises CheckpointError unless the
    tensors are those bytes, each of the size that its type and shape ask for.
    """
    try:
        start = 8 + int.from_bytes(file.read(8), "little")
        if start > size:
            raise ValueError(f"a header of {start - 8} bytes")
        header: dict[str, Any] = parse(file.read(min(start - 8, MAX_JSON + 1)))
        header.pop("__metadata__", None)
        # Without gap or overlap: or else a small file could claim any amount of memory.
        places = sorted(entry["data_offsets"] for entry in header.values())
        if [0, *(end for _, end in places)] != [*(begin for begin, _ in places), size - start]:
            raise ValueError(f"its tensors are not the {size - start} bytes after the header")
        for entry in header.values():
            kind, shape, (begin, end) = (entry[key] for key in ("dtype", "shape", "data_offsets"))
            sensible = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
            dtype = DTYPES.get(kind)
            if not sensible or (dtype and end - begin != math.prod(shape) * dtype.itemsize):
                raise ValueError(f"a {kind} of shape {shape} in bytes {begin} to {end}")
        return header
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is cut short, damaged, or not a safetensors file ({size} bytes; {error})"
        ) from error


def subset(
    entries: dict[str, Any], start: int, names: Collection[str]
) -> tuple[bytes, list[tuple[int, int]]]:
    """A safetensors header for these tensors alone, and the bytes of the old file to follow it."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    spans: list[tuple[int, int]] = []
    place = 0
    for name in sorted(names, key=lambda name: entries[name]["data_offsets"]):
        begin, end = entries[name]["data_offsets"]
        offsets = [place, place := place + end - begin]
        header[name] = {key: entries[name][key] for key in ("dtype", "shape")}
        header[name]["data_offsets"] = offsets
        first = spans.pop()[0] if spans and spans[-1][1] == start + begin else start + begin
        spans.append((first, start + end))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # aligns the tensors, as safetensors does
    return len(text).to_bytes(8, "little") + text, spans


def _open_pickle(path: Path) -> tuple[dict[str, Stored], Any]:
    """A PyTorch file, memory-mapped if it is a zip file, as PyTorch 1.6 and later write it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about an old or odd format
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:  # the type depends on where the file is damaged
        if lacks_memory(error):
            raise CheckpointError(f"{path}: too little memory, or damaged ({error})") from error
        if what := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path} holds a {what[1]}, not only tensors. Unpickling that can run any code, "
                "so it is refused: save the model's state_dict, best as safetensors"
            ) from error
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path} is a TorchScript program: save its torch.jit.load(PATH).state_dict()"
            ) from error
        raise CheckpointError(f"{path} is cut short, damaged, or not a PyTorch file") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a state_dict")

    def stored(tensor: Tensor) -> Stored:
        dtype: torch.dtype | str = tensor.dtype
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            dtype = f"{tensor.dtype}, {tensor.layout} on {tensor.device}"
        elif tensor.dtype not in DTYPES.values():
            dtype = str(tensor.dtype)
        elif tensor.untyped_storage().nbytes() < tensor.nbytes:  # a few bytes shown as many
            dtype = f"{tensor.dtype}, expanded"
        return Stored(tuple(tensor.shape), dtype, lambda target: target.copy_(tensor.detach()))

    state = next((content[key] for key in STATES if key in content), content)
    if state is content and {"state", "param_groups"} <= content.keys():
        raise CheckpointError(f"{path} is the state of an optimizer: {BESIDE}")
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, expected a state_dict")
    tensors = {
        name: stored(value)
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    return tensors, content.get("dims")


def read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = parse(file.read(MAX_JSON + 1))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected an object")
    return content


def parse(text: bytes) -> Any:
    """Parse JSON. Raises ValueError if it is malformed, too large or deep, or repeats a name."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"it has {name[:80]!r} twice")
            found[name] = value
        return found

    if len(text) > MAX_JSON:
        raise ValueError(f"it has more than {MAX_JSON} bytes of JSON")
    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deep") from error
