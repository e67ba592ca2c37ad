"""Reads checkpoints of MLX: `weights.npz` and `weights.safetensors` of mlx-whisper.

Theirs are openai-whisper's names, with `mlp1` and `mlp2` for `mlp.0` and `mlp.2`. The weights of
convolutions are (S, K, M), ours (S, M, K). The positions are not in the file; MLX computes them.
"""

# K kernel  M mel bins  S state  T positions

from __future__ import annotations

import math
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {"<f2": "F16", "<f4": "F32", "<f8": "F64"}
MLP = re.compile(r"(\.blocks\.\d{1,3}\.)mlp([12])\.")
# Of an array: "\x93NUMPY", version 1.0, the length of the rest, and a dictionary of Python's.
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<|][a-zA-Z])(\d{1,2})', 'fortran_order': (True|False), "
    rb"'shape': \(([\d, ]{0,80})\),? ?\} *\n",
    re.DOTALL,
)
MOST_HEADER = 512
MOST_INDEX = 4 << 20  # bytes of a zip file's index; large-v3 has 100 kB
TAIL = 22 + (1 << 16)  # a zip file ends in a record of 22 bytes and a comment


def read_npz(path: Path) -> dict[str, tuple[str, tuple[int, ...], bool, int, int]]:
    """The arrays of an uncompressed npz file, none of them read.

    Returns of each, by name: the type as safetensors names it, the shape, whether the first axis
    is the fastest, and the bytes of the file from begin to end. Raises ValueError, in one line.
    """
    arrays: dict[str, tuple[str, tuple[int, ...], bool, int, int]] = {}
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - TAIL))
        record = file.read().rpartition(b"PK\5\6")[2]
        if len(record) < 18 or int.from_bytes(record[8:12], "little") > MOST_INDEX:
            raise ValueError("cut short, damaged, or not an npz file")
        try:
            with zipfile.ZipFile(file) as members:
                for member in members.infolist():
                    if member.compress_type != zipfile.ZIP_STORED:
                        raise ValueError("its arrays are compressed: write it with np.savez")
                    with members.open(member) as array:
                        start = array.read(MOST_HEADER)
                    if not (header := HEADER.match(start)):
                        raise ValueError(f"{member.filename} is not an array of numbers")
                    letter, n_bytes, first_axis_fastest, sizes = header.groups()
                    shape = tuple(int(n) for n in sizes.replace(b" ", b"").split(b",") if n)
                    # After the member's own header: 30 bytes, its name and an extra field.
                    file.seek(member.header_offset + 26)
                    begin = file.tell() + 4 + sum(struct.unpack("<2H", file.read(4)))
                    begin, end = begin + header.end(), begin + member.file_size
                    if end - begin != math.prod(shape) * int(n_bytes) or end > size:
                        raise ValueError(f"{member.filename} is not as long as it says")
                    name, kind = member.filename.removesuffix(".npy"), (letter + n_bytes).decode()
                    fortran = first_axis_fastest == b"True"
                    arrays[name] = DTYPES.get(kind, kind), shape, fortran, begin, end
        except (zipfile.BadZipFile, RuntimeError, EOFError, OverflowError, struct.error) as error:
            raise ValueError("cut short, damaged, or not an npz file") from error
    if sum(end - begin for *_, begin, end in arrays.values()) > size:
        raise ValueError("its arrays overlap")
    return arrays


def openai_name(name: str) -> str:
    """openai-whisper's name of a tensor; any other name is returned as it is."""
    return MLP.sub(lambda found: f"{found[1]}mlp.{2 * int(found[2]) - 2}.", name)


def is_layout(names: Mapping[str, object]) -> bool:
    return any(MLP.search(f".{name}") for name in names)


def sinusoids(n_positions: int, state: int) -> Tensor:
    """The positions that MLX computes, in float32, (T, S). `formula.sinusoids` explains them."""
    half = state // 2
    rate = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half, dtype=torch.float32))
    angle = torch.arange(n_positions, dtype=torch.float32)[:, None] * rate  # (T, S / 2)
    return torch.cat([angle.sin(), angle.cos()], dim=1)  # (T, S)
