"""Reads whisper.cpp's `ggml-NAME.bin`: the dimensions, and where in the file each tensor is.

Everything is little-endian, and nothing is aligned:
    int32           0x67676d6c, "ggml"
    11 int32        n_vocab, n_audio_ctx, n_audio_state, n_audio_head, n_audio_layer, n_text_ctx,
                    n_text_state, n_text_head, n_text_layer, n_mels, ftype
    2 int32, floats rows and columns of the mel filters, and the filters
    int32, tokens   their number, then each one's length as int32, and its bytes
    tensors         to the end of the file: number of axes, length of the name and type as int32,
                    the axes from the fastest to the slowest, the name, the values
The names are openai-whisper's. The biases of the convolutions have a second axis, of length 1.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

MAGIC = struct.pack("<i", 0x67676D6C)
FIELDS = (
    "n_vocab", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer", "n_text_ctx",
    "n_text_state", "n_text_head", "n_text_layer", "n_mels", "ftype",
)  # fmt: skip
DTYPES = {0: "F32", 1: "F16"}  # of a tensor; any other is quantised
# `ftype` of a file: 1000 times the version of the quantised layout, plus what most tensors are in.
QUANTISED = {2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1"}
QUANTISED |= {10 + i: f"q{bits}_k" for i, bits in enumerate((2, 3, 4, 5, 6))}
MOST_TOKENS, MOST_TENSORS, LONGEST_NAME = 1 << 17, 1 << 14, 256  # large-v3: 51,866, 1,259, 40


class Place(NamedTuple):
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    begin: int  # in bytes from the beginning of the file
    end: int


def read(path: Path) -> tuple[dict[str, Any], dict[str, Place]]:
    """The dimensions, as openai-whisper's `dims`, and the tensors. Raises ValueError: one line."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            return _read(file, size)
        except (struct.error, UnicodeDecodeError, OverflowError) as error:
            raise ValueError(f"cut short or damaged near byte {file.tell()} of {size}") from error


def _read(file: BinaryIO, size: int) -> tuple[dict[str, Any], dict[str, Place]]:
    _, *values = _ints(file, 1 + len(FIELDS))
    dims: dict[str, Any] = dict(zip(FIELDS, values, strict=True))
    if (kind := dims.pop("ftype") % 1000) not in DTYPES:
        raise ValueError(
            f"its weights are quantised ({QUANTISED.get(kind, f'type {kind}')}), which is not "
            "read: give the file without -q in its name, whose weights are float16"
        )
    rows, columns = _ints(file, 2)
    _skip(file, 4 * rows * columns, size)
    for _ in range(_at_most(MOST_TOKENS, *_ints(file, 1))):
        (length,) = _ints(file, 1)
        _skip(file, length, size)
    tensors: dict[str, Place] = {}
    while file.tell() < size:
        n_axes, length, kind = _ints(file, 3)
        shape = tuple(reversed(_ints(file, _at_most(4, n_axes))))
        name = file.read(_at_most(LONGEST_NAME, length)).decode()
        if not name or name in tensors or kind not in DTYPES or len(tensors) == MOST_TENSORS:
            raise OverflowError
        if name.endswith((".conv1.bias", ".conv2.bias")) and shape[1:] == (1,):
            shape = shape[:1]  # (S, 1) -> (S,)
        begin = file.tell()
        _skip(file, math.prod(shape) * (4 if DTYPES[kind] == "F32" else 2), size)
        tensors[name] = Place(DTYPES[kind], shape, begin, file.tell())
    if not tensors:
        raise ValueError("it has no tensors: whisper.cpp's own tests have such files")
    return dims, tensors


def _ints(file: BinaryIO, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}i", file.read(4 * count))


def _at_most(most: int, value: int) -> int:
    if not 0 <= value <= most:
        raise OverflowError
    return value


def _skip(file: BinaryIO, count: int, size: int) -> None:
    """Skip bytes. Raises OverflowError unless the file has them."""
    file.seek(_at_most(size - file.tell(), count), os.SEEK_CUR)
