"""Write the tensors of a clip window by window, and tell whether a file is there already.

# W windows
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from melfront.command import UsageError, replacing
from melfront.features_file import head_of_safetensors

if TYPE_CHECKING:
    from torch import Tensor

    from .. import WhisperEncoder

# What makes two files equal. Their clips and models may have other names.
SAME = (
    *("file_sha256", "weights_sha256", "dtype", "device", "check_range", "hidden_states"),
    *("melfront", "torch", "numpy"),
)
# Names of the types in a .safetensors, in the order in which its tensors lie.
CODES = {"float32": "F32", "int32": "I32", "bfloat16": "BF16", "float16": "F16"}
PIECE = 1 << 20  # bytes copied at a time


class Span(NamedTuple):
    """Where a tensor of all W windows lies: in these bytes, `stride` of them for each window."""

    dtype: str
    shape: tuple[int, ...]  # with W in front if there are several
    begin: int
    end: int
    stride: int


def weights_digest(model: WhisperEncoder) -> str:
    """SHA-256 of every weight: a fine-tuned model may differ from another in one of them."""
    import torch

    hashed = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        hashed.update(name.encode())
        hashed.update(weight.contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def is_made(file: Path, about: dict[str, str]) -> bool:
    """Is this a whole .safetensors, of the same clip, model, options and versions?

    safetensors refuses a file that is longer or shorter than its head says.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as opened:
            there = opened.metadata() or {}
    except (OSError, SafetensorError):
        return False
    return all(there.get(key) == about.get(key) for key in SAME)


def places(tensors: dict[str, Tensor], n_windows: int) -> dict[str, Span]:
    """Where the tensors of a clip lie, given those of a window: as safetensors orders them.

    Wide types come first, so that each begins at a multiple of its width.
    """
    found, begin = {}, 0
    dtypes = {name: str(x.dtype).removeprefix("torch.") for name, x in tensors.items()}
    for name in sorted(tensors, key=lambda name: ([*CODES].index(dtypes[name]), name)):
        x = tensors[name]
        shape = (n_windows, *x.shape) if n_windows > 1 else tuple(x.shape)
        end = begin + n_windows * x.nbytes
        found[name] = Span(dtypes[name], shape, begin, end, x.nbytes)
        begin = end
    return found


def check_room(file: Path, n_bytes: int) -> None:
    """Raises UsageError where the disk has not that many bytes free: now, and not hours later."""
    free = shutil.disk_usage(file.parent).free
    if n_bytes > free:
        needs, has = f"{n_bytes / 1e9:.2f} GB", f"{free / 1e9:.2f} GB"
        raise UsageError(f"{file} takes {needs}, and the disk has {has} left; make room for it")


class WindowFile:
    """A binary file that takes a clip's tensors window by window, each tensor in one piece."""

    def __init__(
        self, target: IO[bytes], n_windows: int, name: Path, about: dict[str, str] | None
    ) -> None:
        """name: the file in the end; about: metadata of a .safetensors, None for bare tensors."""
        self.target, self.n_windows, self.name, self.about = target, n_windows, name, about
        self.places: dict[str, Span] = {}
        self.start = self.done = 0

    def write(self, tensors: dict[str, Tensor]) -> None:
        """Write the next window. Raises OSError, and UsageError where all will not fit."""
        import torch

        if not self.places:
            self.places = places(tensors, self.n_windows)
            check_room(self.name, sum(place.end - place.begin for place in self.places.values()))
            if self.about is not None:
                spans = {
                    name: (CODES[span.dtype], span.shape, span.end - span.begin)
                    for name, span in self.places.items()
                }
                self.target.write(head_of_safetensors(spans, {"format": "pt", **self.about}))
            self.start = self.target.tell()
        for name, x in tensors.items():
            place = self.places[name]
            self.target.seek(self.start + place.begin + self.done * place.stride)
            self.target.write(x.contiguous().cpu().view(torch.uint8).numpy().data)
        self.done += 1


def zip_arrays(
    target: IO[bytes], source: IO[bytes], found: dict[str, Span], about: dict[str, str]
) -> None:
    """Copy tensors out of a file into an .npz as `np.savez` writes it, a piece at a time."""
    with zipfile.ZipFile(target, "w") as archive:
        with archive.open("metadata.npy", "w") as entry:
            np.lib.format.write_array(entry, np.array(json.dumps(about)))
        for name, (dtype, shape, begin, end, _) in found.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                kind = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(entry, kind)
                source.seek(begin)
                for at in range(begin, end, PIECE):
                    entry.write(source.read(min(PIECE, end - at)))


@contextmanager
def written(
    file: Path, n_windows: int, about: dict[str, str]
) -> Iterator[Callable[[dict[str, Tensor]], None]]:
    """Yields a function that takes the tensors of the next window of a clip.

    At the end of the block they are in the file; if the block raises, the file is as it was.
    Raises UsageError where it cannot be written, such as on a full disk, if possible at once.
    """
    folder = file.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary, temporary.open("wb") as target:
            if file.suffix != ".npz":
                yield WindowFile(target, n_windows, file, about).write
                return
            # A zip takes one array after the other. A file without a name goes with the process.
            with tempfile.TemporaryFile(dir=folder) as raw:
                windows = WindowFile(raw, n_windows, file, None)
                yield windows.write
                zip_arrays(target, raw, windows.places, about)
    except OSError as error:
        raise UsageError(f"{file} could not be written: {error.strerror or error}") from error
