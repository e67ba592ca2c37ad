"""What a file promises, held against what it has, before memory is taken on its word.

Whoever ports Whisper hands us files of their own and of others, and some of those are damaged or
meant to do harm. No size in a header is believed: the bytes have to be there.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np

from melfront.command import lacks_memory

from ..noise import Array
from ..stages import ParityError, check_once, from_json

# Of numbers that are not all alike deflate leaves a third; of zeros a thousandth. Stages of a quiet
# clip are mostly zeros, and small: what is large has attention's scores in it, which are noise.
MOST_UNPACKED, MOST_RATIO = 1 << 28, 100
MOST_HEADER = 1 << 22  # bytes; that of MOST_TENSORS with names of 100 characters has 4 MB
MOST_TENSORS = 20_000  # an encoder of 1000 blocks, the most that a name can say, has 14,000

# Whatever the scale of a waveform, no stage comes near: int32 samples as they are give powers of
# 1e23. The square of such a number may overflow, and no mistake explains it.
ABSURD = 1e30

NPY = b"\x93NUMPY"


def check_file(path: Path, what: str = "") -> None:
    """Raises ParityError for a device, a pipe, a socket: what may never end, or never begin."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise ParityError(f"{what}{path}: {kind}; expected a file")


def check_zip(path: Path, archive: ZipFile) -> None:
    """Raises ParityError for an archive of far more bytes than its size, or of too many entries."""
    entries = archive.infolist()
    check_count(path, len(entries))
    check_once((entry.filename.removesuffix(".npy") for entry in entries), str(path))
    if any(entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED) for entry in entries):
        raise ParityError(f"{path}: packed in another way than np.savez does; write it with that")
    packed, unpacked = path.stat().st_size, sum(entry.file_size for entry in entries)
    if unpacked > max(MOST_UNPACKED, MOST_RATIO * packed):
        raise ParityError(
            f"{path}: {packed:,} bytes that unpack to {unpacked:,}; save it anew, uncompressed, "
            "with np.savez"
        )


def check_npy(file: IO[bytes], size: int, name: str) -> None:
    """Raises ParityError where the header of an .npy promises other bytes than those of the file.

    file: at its start; size: its bytes.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:  # (3, 0) is for named columns, whose names may be in any letters
        raise ParityError(f"{name}: .npy of version {version}; save a plain array of numbers")
    promised, there = dtype.itemsize * math.prod(shape), size - file.tell()
    if min(shape, default=0) < 0 or (promised > there and not dtype.hasobject):
        raise ParityError(
            f"{name}: an array of shape {shape} needs {promised:,} bytes, and {there:,} are there; "
            "write it again"
        )


def check_safetensors(path: Path) -> None:
    """Raises ParityError for a header that is too long, or has a name twice.

    Where the tensors lie is checked by the safetensors library.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MOST_HEADER, path.stat().st_size):
            raise ParityError(
                f"{path}: a header of {length:,} bytes; expected no more than the file has, and at "
                f"most {MOST_HEADER:,}"
            )
        held = from_json(file.read(length).decode(), str(path))
    check_count(path, len(held) if isinstance(held, dict) else 0)


def check_count(path: Path, count: int) -> None:
    if count > MOST_TENSORS:
        raise ParityError(f"{path}: {count:,} tensors; expected at most {MOST_TENSORS:,}")


def bounded(values: Array, kind: str) -> tuple[Array, str, tuple[str, ...]]:
    """A tensor's values, type and notes: what is beyond ABSURD is counted as infinite."""
    with np.errstate(all="ignore"):
        if np.isnan(values).any():  # some signal, at each step of the way
            values = np.where(np.isnan(values), values.dtype.type(np.nan), values)
        parts = (values.real, values.imag) if np.iscomplexobj(values) else (values,)
        ends = [f.reduce(p, axis=None, initial=0) for p in parts for f in (np.fmax, np.fmin)]
        if not max(map(abs, ends)) > ABSURD:
            return values, kind, ()
        absurd = np.isfinite(values) & (np.abs(values) > ABSURD)
        if not absurd.any():  # infinite already
            return values, kind, ()
        largest, count = np.abs(values[absurd]).max(), int(absurd.sum())
        infinite = values.dtype.type(np.inf) * np.sign(values.real)
    verb = "is" if count == 1 else "are"
    note = (
        f"{count} of {values.size} values {verb} beyond {ABSURD:g}, up to {largest:.2g}: garbage, "
    )
    return np.where(absurd, infinite, values), kind, (f"{note}counted as infinite",)


@contextmanager
def parsed(path: Path, name: str) -> Iterator[None]:
    """Turn any exception of a parser into a ParityError: a damaged file may raise anything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that are odd but readable
            yield
    except ParityError:
        raise
    except Exception as error:
        raise ParityError(f"{name}: {explain(error, path)}") from error


def explain(error: Exception, path: Path) -> str:
    if path.exists() and path.stat().st_size == 0:
        return "the file is empty"
    if lacks_memory(error):
        return f"too large for the memory, or damaged ({error})"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    if "pickle" in str(error).lower():
        # NumPy takes any file that it does not recognise for a pickle.
        with path.open("rb") as file:
            if not file.read(6).startswith((NPY, b"PK\3\4", b"PK\5\6")):
                return f"not a {path.suffix} file, whatever its name; write it with NumPy"
        return "holds Python objects, which are not read; save plain arrays of numbers"
    return f"not a whole file of its kind ({type(error).__name__}); write it again"
