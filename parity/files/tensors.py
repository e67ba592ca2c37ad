"""Stage tensors on disk: npz, safetensors, or a folder of .npy, in and out."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Generic

import numpy as np
from typing_extensions import NamedTuple  # comes with torch; before 3.11 typing's is not generic

from melfront.command import shorten
from melfront.conventions import N_FRAMES

from ..noise import Array
from ..stages import Name, ParityError, check_once, from_json, shown, unknown
from . import bounds
from .bounds import MOST_HEADER, NPY, bounded, parsed
from .names import sorted_out, stages_of
from .texts import RAW, TEXTS, Printed, read_raw, read_text, unread

FORMAT = "2"
FLOOR, NORM, SAMPLED = "floor.", "norm.", "sampled."  # before a stage's name, in the metadata
METADATA = "__metadata__"  # name of the JSON text in an npz; safetensors has a place for it
NAMES_OF_METADATA = (METADATA, "metadata")
METADATA_ROOM = 8192  # bytes, and for each stage's shape, norm and noise:
STAGE_ROOM = 256
STATES = ("hidden_states", "encoder_hidden_states")  # of all blocks, in one
NO_STAGES = {"attention_mask"}  # our other commands write it next to the stages
MOST_AXES = 16  # NumPy computes with up to 64, and not everything with more than 32


class Tensor(NamedTuple):
    """A tensor as it was stored. bfloat16 has no NumPy type: its values come as float32."""

    values: Array
    dtype: str  # float16, bfloat16, float32 or float64
    notes: tuple[str, ...] = ()  # what was changed to bring it into its stage's layout
    printed: Printed | None = None  # of a tensor that was not stored; `values` has what is known


class Dump(NamedTuple, Generic[Name]):
    """Tensors and metadata, as `dump.describe` writes it.

    A file's tensors have the file's names; `resolve.by_stage` puts them under their stages.
    """

    tensors: dict[Name, Tensor]
    metadata: dict[str, str]
    left_out: tuple[str, ...] = ()  # what else the file holds, and why it is not compared

    @property
    def floors(self) -> dict[str, float]:
        """rms float32 noise of each stage that the file publishes: `floor.mel` is "2.5e-07"."""
        return self.said(FLOOR, positive)

    @property
    def sampled(self) -> dict[str, tuple[int, ...]]:
        """Stages of which the file holds only `sampling.sample_positions`: name to whole shape.

        `sampled.power` is "37 201".
        """
        return self.said(SAMPLED, lambda text: tuple(map(int, text.split())))

    def said(self, prefix: str, kind: Callable[[str], Any]) -> dict[str, Any]:
        """What the metadata says of each stage under this prefix. Raises ParityError."""
        values = {}
        for key, text in self.metadata.items():
            if key.startswith(prefix):
                try:
                    values[key.removeprefix(prefix)] = kind(text)
                except ValueError as error:
                    raise ParityError(
                        f"the metadata {key!r}: {error}; take what `dump` wrote"
                    ) from error
        return values


def positive(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise ValueError(f"{text}, expected a number above 0")
    return float(text)


def table(text: str, name: str) -> dict[str, Any]:
    value = from_json(text, name)
    if not isinstance(value, dict):
        raise ParityError(f"{name} is not a JSON object; leave it out, or take what `dump` wrote")
    return value


def read(path: str | os.PathLike[str]) -> Dump[str]:
    """Read a dump. Raises ParityError for a file that is missing, empty, cut short, or pickled."""
    path = Path(path)
    if not path.exists():
        raise ParityError(f"{path}: no such file or folder")
    if path.is_dir():
        files = [p for p in sorted(path.iterdir()) if p.suffix in (".npy", *RAW)]
        bounds.check_count(path, len(files))
        check_once((p.stem for p in files), str(path))
        dump = collect(((p.stem, array_of(p)) for p in files), str(path))
    elif path.suffix == ".npz":
        dump = read_npz(path)
    elif path.suffix == ".safetensors":
        dump = read_safetensors(path)
    elif path.suffix in (".npy", *RAW, *TEXTS):
        dump = read_single(path)
    else:
        raise unread(path)
    if not dump.tensors:
        raise ParityError(f"{path}: no tensors in it")
    if old := {"floors", "sampled"} & dump.metadata.keys():
        raise ParityError(
            f"{path}: the metadata {min(old)!r} has a form that is no longer read; dump it again"
        )
    for key in ("clip", "model"):  # names that are printed
        if not (said := dump.metadata.get(key, "")).isprintable():
            raise ParityError(f"{path}: the metadata {key!r} is {said!r}, expected a name")
    return dump


def read_single(path: Path) -> Dump[str]:
    """A file of one tensor, of which the file's name tells the stage, or a text with names."""
    held: dict[str, Any] = {}
    with parsed(path, str(path)):
        bounds.check_file(path)
        held = read_text(path) if path.suffix in TEXTS else {"": array_of(path)}
        bounds.check_count(path, len(held))
    if "" in held:
        values = held.pop("")
        held[stage_of(path, as_tensor(values, path.name))] = values
    return collect(held.items(), str(path))


def stage_of(path: Path, tensor: Tensor) -> str:
    """The name of a single .npy's tensor: the file's, or `log_mel` if it looks like features.

    Raises ParityError where it does not and no stage has the file's name.
    """
    try:
        stages_of([path.stem], None)
    except ParityError as error:
        shape = tensor.values.shape
        flat = len(shape) == 1 and shape[0] and any(shape[0] % bins == 0 for bins in (80, 128))
        if {80, 128} & {*shape[-2:]} or shape[-1:] == (N_FRAMES,) or flat:
            return "log_mel"  # as `melfront -o` writes it under any name
        raise ParityError(
            f"{path}: the file's name is taken for the stage's; rename it, such as to "
            f"log_mel.npy: {error}"
        ) from error
    return path.stem


def array_of(path: Path) -> Array:
    """The one array of an .npy or of raw numbers. Raises ParityError."""
    with parsed(path, str(path)):
        bounds.check_file(path)
        if path.suffix in RAW:
            return read_raw(path)
        with path.open("rb") as file:
            if file.read(len(NPY)) == NPY:
                file.seek(0)
                bounds.check_npy(file, path.stat().st_size, str(path))
            file.seek(0)
            values = np.load(file, allow_pickle=False)
            if isinstance(values, np.lib.npyio.NpzFile):
                raise ParityError(f"{path}: an .npz under the name of an .npy; rename it")
    return np.asarray(values)


def read_npz(path: Path) -> Dump[str]:
    with parsed(path, str(path)):
        bounds.check_file(path)
        with path.open("rb") as file:
            if file.read(len(NPY)) == NPY:
                raise ParityError(
                    f"{path}: a single .npy array under the name of an .npz; rename it"
                )
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                bounds.check_zip(path, archive.zip)
                raw, metadata = entries(path, archive)
    return collect(raw.items(), str(path))._replace(metadata=metadata)


def entries(path: Path, archive: Any) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays of an .npz, and its metadata."""
    raw, metadata = {}, {}
    for entry in archive.zip.infolist():
        name = entry.filename.removesuffix(".npy")
        if name in NAMES_OF_METADATA and entry.file_size > 4 * MOST_HEADER:
            raise ParityError(f"{path}: {name} of {entry.file_size:,} bytes; leave it out")
        values = in_archive(path, archive, entry)
        if name in NAMES_OF_METADATA and values.dtype.kind == "U":
            said = table(str(values), f"{path}: {name}")
            # safetensors holds texts only; people put numbers into the metadata of an npz
            metadata = {k: v if isinstance(v, str) else json.dumps(v) for k, v in said.items()}
        elif name not in NO_STAGES:
            raw[name] = values
    return raw, metadata


def in_archive(path: Path, archive: Any, entry: zipfile.ZipInfo) -> Array:
    """An array of an .npz; of an entry that is not an .npy its bytes. Raises ParityError."""
    with parsed(path, f"{path}: {shown(entry.filename)}"):
        with archive.zip.open(entry) as file:
            whole = file.read(len(NPY)) == NPY
        if whole:
            with archive.zip.open(entry) as file:
                bounds.check_npy(file, entry.file_size, f"{path}: {shown(entry.filename)}")
        return np.asarray(archive[entry.filename])


def read_safetensors(path: Path) -> Dump[str]:
    from safetensors import safe_open

    with parsed(path, str(path)):
        bounds.check_file(path)
        bounds.check_safetensors(
            path
        )  # and safe_open reports a file without read permission as missing
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            raw = {name: file.get_tensor(name) for name in set(file.keys()) - NO_STAGES}
    return collect(raw.items(), str(path))._replace(metadata=metadata)


def collect(raw: Iterable[tuple[str, Any]], where: str) -> Dump[str]:
    """The tensors among these arrays; a number, a text, anything of another type is left out.

    where: the file, for errors. Raises ParityError where a stage has another type, and where there
    is no tensor at all.
    """
    tensors: dict[str, Tensor] = {}
    left_out: list[str] = []
    foreign: list[str] = []
    for name, values in raw:
        if name in STATES and isinstance(values, (list, tuple)):  # one for each block, and the stem
            tensors |= {
                f"{name}.{i}": as_tensor(x, f"{where}: {name}.{i}") for i, x in enumerate(values)
            }
            continue
        try:
            tensors[name] = as_tensor(values, f"{where}: {name}")
        except ParityError:
            if sorted_out([name], None)[0]:
                raise
            left_out.append(f"left out: {shown(name)} is no stage's name, and no tensor of floats")
            foreign.append(name)
    if foreign and not tensors:
        raise ParityError(f"{where}: {unknown(foreign[0])}")
    return Dump(tensors, {}, tuple(left_out))


def as_tensor(values: Any, name: str) -> Tensor:
    """A NumPy array or torch tensor with its type's name. Raises ParityError for other types."""
    if isinstance(values, Printed):
        known = [number.value for number in (*values.first, *values.last)]
        return Tensor(np.array(known, np.float32), "float32", printed=values)
    of_torch = hasattr(values, "detach")
    try:
        values = values.detach().cpu() if of_torch else np.asarray(values)
        stored = str(values.dtype).removeprefix("torch.") if of_torch else values.dtype.name
        kind = {"complex64": "float32", "complex128": "float64"}.get(stored, stored)
        if kind not in ("float16", "float32", "float64") and (stored != "bfloat16" or not of_torch):
            raise ParityError(
                f"{name}: dtype {stored}; expected float16, bfloat16, float32, float64"
            )
        if values.ndim > MOST_AXES:
            raise ParityError(f"{name}: {values.ndim} axes; expected at most {MOST_AXES}")
        if of_torch:
            values = values.float() if stored == "bfloat16" else values
            values = values.resolve_conj().resolve_neg().numpy()
    except (ParityError, MemoryError):
        raise
    except Exception as error:  # of a tensor that is sparse, nested, or on the meta device
        why = str(error).partition("\n")[0]
        raise ParityError(
            f"{name}: no array of numbers can be made of it ({shorten(why, 200)}); give a dense one"
        ) from error
    return Tensor(*bounded(values, kind))


class Writer:
    """Writes tensors one by one as they are made, so that only one is in memory.

    shapes: of all tensors, in order, because a safetensors file begins with them. The metadata is
    known only at the end, so the header leaves room for it.
    """

    def __init__(
        self, path: Path, kind: str, shapes: Mapping[Any, tuple[int, ...]], dtype: str
    ) -> None:
        self.dtype, self.shapes = dtype, shapes
        self.expected = iter(shapes.items())
        self.file: IO[bytes] = open(path, "wb")  # noqa: SIM115  # closed in close()
        self.room = 0
        if kind == ".npz":
            self.zip = zipfile.ZipFile(self.file, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        else:
            self.room = len(self.header({})) + METADATA_ROOM + STAGE_ROOM * len(shapes)
            self.file.write(bytes(8 + self.room))

    def write(self, name: str, values: Array) -> None:
        expected, shape = next(self.expected)
        values = np.ascontiguousarray(values, dtype=np.dtype(self.dtype).newbyteorder("<"))
        if (name, values.shape) != (expected, shape):
            raise ValueError(f"{name} {values.shape} written where {expected} {shape} was due")
        if self.room:
            self.file.write(values.data)
        else:
            self.put(name, values)

    def put(self, name: str, values: Array) -> None:
        with self.zip.open(f"{name}.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array(entry, values)

    def header(self, metadata: dict[str, str]) -> bytes:
        """The head of a safetensors file: the offset of every tensor, as JSON."""
        size, code = {"float64": (8, "F64"), "float32": (4, "F32")}[self.dtype]
        entries: dict[str, Any] = {METADATA: metadata}
        start = 0
        for name, shape in self.shapes.items():
            end = start + size * math.prod(shape)
            entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
            start = end
        return json.dumps(entries, separators=(",", ":")).encode()

    def close(self, metadata: dict[str, str] | None = None) -> None:
        """Finish the file; without metadata, abandon it."""
        with self.file:
            if self.room and metadata is not None:
                self.file.seek(0)
                self.file.write(self.room.to_bytes(8, "little"))
                header = self.header(metadata)
                if len(header) > self.room:  # it would overwrite the first tensor
                    raise ValueError(f"a header of {len(header)} bytes; room for {self.room}")
                self.file.write(header.ljust(self.room))
            elif metadata is not None:
                self.put(METADATA, np.array(json.dumps(metadata)))
                self.zip.close()
            elif not self.room:
                with suppress(OSError, ValueError):  # else the destructor would try again
                    self.zip.close()
