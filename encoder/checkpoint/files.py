"""What the files of a checkpoint share: safetensors' header, JSON, and how a tensor is held.

A checkpoint may come from anyone, so it is not trusted: none of its code is run, no size that it
states is allocated unchecked, and what an error quotes of it is shortened, without control
characters.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from melfront.command import one_line

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz")
DTYPES = {  # by safetensors' names; any other type is quantised, or not a weight
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
MOST_AXES = 8  # of a tensor: the product of more takes long to compute
# Bits of an element of each type of safetensors.
BITS = dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8)
BITS |= dict.fromkeys(("U16", "I16", "F16", "BF16"), 16) | dict.fromkeys(("U32", "I32", "F32"), 32)
BITS |= dict.fromkeys(("U64", "I64", "F64", "C64"), 64) | {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
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
    place: tuple[str, int, int] | None = None  # its file, and the bytes there from begin to end


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
        about = header.pop("__metadata__", {})
        if not all(isinstance(text, str) for text in about.values()):
            raise ValueError("its metadata are not text")
        # Without gap or overlap: or else a small file could claim any amount of memory.
        places = sorted(entry["data_offsets"] for entry in header.values())
        if [0, *(end for _, end in places)] != [*(begin for begin, _ in places), size - start]:
            raise ValueError(f"its tensors are not the {size - start} bytes after the header")
        for entry in header.values():
            kind, shape, (begin, end) = (entry[key] for key in ("dtype", "shape", "data_offsets"))
            if len(shape) > MOST_AXES:
                raise ValueError(f"a shape of {len(shape)} axes")
            sensible = all(type(n) is int and 0 <= n < 1 << 63 for n in (*shape, begin, end))
            bits = BITS.get(kind) if re.fullmatch(r"\w{1,20}", kind) else 0  # None: a type to come
            fits = bits is None or 8 * (end - begin) == math.prod(shape) * bits
            if not sensible or not fits:
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
