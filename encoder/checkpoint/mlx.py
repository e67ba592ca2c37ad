"""Reads checkpoints of MLX: `weights.npz` and `weights.safetensors` of mlx-whisper.

Theirs are openai-whisper's names, with `mlp1` and `mlp2` for `mlp.0` and `mlp.2`. The weights of
convolutions are (S, K, M), ours (S, M, K). The positions are not in the file; MLX computes them.
"""

# K kernel  M mel bins  S state  T positions

from __future__ import annotations

import math
import re
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


def read_npz(
    path: Path, members: Mapping[str, tuple[int, int, bool]]
) -> dict[str, tuple[str, tuple[int, ...], bool, int, int]]:
    """The arrays of an uncompressed npz file, none of them read.

    members: of the zip archive, by name: begin and end in bytes, and whether it is stored.

    Returns of each, by name: the type as safetensors names it, the shape, whether the first axis
    is the fastest, and the bytes of the file from begin to end. Raises ValueError, in one line.
    """
    arrays: dict[str, tuple[str, tuple[int, ...], bool, int, int]] = {}
    with path.open("rb") as file:
        for member, (begin, end, is_stored) in members.items():
            if not is_stored:
                raise ValueError("its arrays are compressed: write it with np.savez")
            file.seek(begin)
            if not (header := HEADER.match(file.read(min(MOST_HEADER, end - begin)))):
                raise ValueError(f"{member} is not an array of numbers")
            letter, n_bytes, first_axis_fastest, sizes = header.groups()
            shape = tuple(int(n) for n in sizes.replace(b" ", b"").split(b",") if n)
            begin += header.end()
            if end - begin != math.prod(shape) * int(n_bytes):
                raise ValueError(f"{member} is not as long as it says")
            name, kind = member.removesuffix(".npy"), (letter + n_bytes).decode()
            if name in arrays:
                raise ValueError(f"it has {name} twice")
            fortran = first_axis_fastest == b"True"
            arrays[name] = DTYPES.get(kind, kind), shape, fortran, begin, end
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
