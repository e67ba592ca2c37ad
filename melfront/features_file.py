"""Write the features of a clip of any length, window by window, to .npy, .npz or .safetensors.

# W windows of 30 s  M mel bins  F frames
"""

from __future__ import annotations

import json
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
            file.write(header(shape, attention_mask.shape, about))
            shutil.copyfileobj(log_mel, file)
            file.write(attention_mask.astype("<i4").tobytes())


def write_npy(file: Any, log_mel: IO[bytes], shape: tuple[int, ...]) -> None:
    description = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
    shutil.copyfileobj(log_mel, file)


def header(features: tuple[int, ...], mask: tuple[int, ...], about: dict[str, str]) -> bytes:
    """The head of a safetensors file of log_mel, float32, and attention_mask, int32, after it."""
    end = 4 * int(np.prod(features))
    offsets = {"log_mel": [0, end], "attention_mask": [end, end + 4 * int(np.prod(mask))]}
    text = json.dumps(
        {
            "__metadata__": about,
            "log_mel": {"dtype": "F32", "shape": features, "data_offsets": offsets["log_mel"]},
            "attention_mask": {
                "dtype": "I32",
                "shape": mask,
                "data_offsets": offsets["attention_mask"],
            },
        }
    ).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    return len(text).to_bytes(8, "little") + text
