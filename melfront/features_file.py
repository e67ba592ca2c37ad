"""Write the features of a clip of any length, window by window, to .npy, .npz or .safetensors.

# W windows of 30 s  M mel bins  F frames
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .command import replacing

IN_MEMORY = 1 << 26  # bytes: 42 windows of 128 bins


@contextmanager
def rows(out: Path | None) -> Iterator[IO[bytes] | None]:
    """Where the features wait for their number, which comes before them in every format.

    A long clip's go to a file that has no name, next to `out`: it is gone when the process is.
    """
    if out is None:
        yield None
    else:
        with tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(out.parent)) as file, naming(out):
            yield file


@contextmanager
def naming(out: Path) -> Iterator[None]:
    """A full disk and the like is reported with the name of the file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno:
            error.filename = str(out)
        raise


def save_features(
    out: Path,
    log_mel: IO[bytes],
    shape: tuple[int, ...],
    attention_mask: NDArray[np.int32],
    about: dict[str, str],
) -> None:
    """Write `out`, whole or not at all.

    log_mel: what `rows` collected, float32 of this shape, (M, F) or (W, M, F).
    """
    log_mel.seek(0)
    with replacing(out) as temporary, temporary.open("wb") as file:
        if out.suffix == ".npy":
            write_npy(file, log_mel, shape)
        elif out.suffix == ".npz":
            with zipfile.ZipFile(file, "w") as archive:
                with archive.open("metadata.npy", "w") as member:
                    np.lib.format.write_array(member, np.array(json.dumps(about)))
                with archive.open("log_mel.npy", "w", force_zip64=True) as member:
                    write_npy(member, log_mel, shape)
                with archive.open("attention_mask.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, attention_mask)
        else:
            features = ("F32", shape, 4 * math.prod(shape))
            mask = ("I32", attention_mask.shape, 4 * attention_mask.size)
            tensors = {"log_mel": features, "attention_mask": mask}
            file.write(head_of_safetensors(tensors, about))
            shutil.copyfileobj(log_mel, file)
            file.write(attention_mask.astype("<i4").tobytes())


def write_npy(file: Any, log_mel: IO[bytes], shape: tuple[int, ...]) -> None:
    description = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
    shutil.copyfileobj(log_mel, file)


def head_of_safetensors(
    tensors: dict[str, tuple[str, tuple[int, ...], int]], about: dict[str, str]
) -> bytes:
    """What a .safetensors begins with: the length of its JSON, then where each tensor lies.

    safetensors itself writes a file in one go, of tensors that are all in memory.
    tensors: the type, such as "F32", the shape and the bytes of each, in the order of the file.
    """
    entries: dict[str, Any] = {"__metadata__": about}
    end = 0
    for name, (dtype, shape, n_bytes) in tensors.items():
        begin, end = end, end + n_bytes
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    return len(text).to_bytes(8, "little") + text
