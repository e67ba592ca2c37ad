"""Stage tensors on disk: npz, safetensors, or a folder of .npy, in and out."""

from __future__ import annotations

import json
import math
import os
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Generic

import numpy as np
from typing_extensions import NamedTuple  # comes with torch; before 3.11 typing's is not generic

from melfront.command import lacks_memory
from melfront.conventions import N_FRAMES

from ..noise import Array
from ..stages import Name, ParityError, unknown
from .names import sorted_out, stages_of
from .texts import RAW, TEXTS, Printed, read_raw, read_text, unread

FORMAT = "2"
FLOOR, NORM, SAMPLED = "floor.", "norm.", "sampled."  # before a stage's name, in the metadata
METADATA = "__metadata__"  # name of the JSON text in an npz; safetensors has a place for it
METADATA_ROOM = 8192  # bytes, and for each stage's shape, norm and noise:
STAGE_ROOM = 256
STATES = ("hidden_states", "encoder_hidden_states")  # of all blocks, in one
NO_STAGES = {"attention_mask"}  # our other commands write it next to the stages


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
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
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
        arrays = ((p.stem, np_load(p) if p.suffix == ".npy" else read_raw(p)) for p in files)
        dump = collect(arrays, str(path))
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
        if path.suffix in TEXTS:
            held = read_text(path)
        else:
            held[""] = np_load(path) if path.suffix == ".npy" else read_raw(path)
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


def np_load(path: Path) -> Any:
    with parsed(path, str(path)):
        return np.load(path, allow_pickle=False)


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
    if path.stat().st_size == 0:
        return "the file is empty"
    if lacks_memory(error):
        return f"too large for the memory, or damaged ({error})"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    if "pickle" in str(error).lower():
        # NumPy takes any file that it does not recognise for a pickle.
        with path.open("rb") as file:
            if not file.read(6).startswith((b"\x93NUMPY", b"PK\3\4", b"PK\5\6")):
                return f"not a {path.suffix} file, whatever its name; write it with NumPy"
        return "holds Python objects, which are not read; save plain arrays of numbers"
    return f"not a whole file of its kind ({type(error).__name__}); write it again"


def read_npz(path: Path) -> Dump[str]:
    archive = np_load(path)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ParityError(f"{path}: a single .npy array under the name of an .npz; rename it")
    raw, metadata = {}, {}
    with archive:
        for name in archive.files:
            with parsed(path, f"{path}: {name}"):
                values = np.asarray(archive[name])  # bytes, if the entry is not a .npy
            if name in (METADATA, "metadata") and values.dtype.kind == "U":
                said = table(str(values), f"{path}: {name}")
                # safetensors holds texts only; people put numbers into the metadata of an npz
                metadata = {k: v if isinstance(v, str) else json.dumps(v) for k, v in said.items()}
            elif name not in NO_STAGES:
                raw[name] = values
    return collect(raw.items(), str(path))._replace(metadata=metadata)


def read_safetensors(path: Path) -> Dump[str]:
    from safetensors import safe_open

    with parsed(path, str(path)):
        path.open("rb").close()  # safe_open reports a file without read permission as missing
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
            left_out.append(f"left out: {name!r} is no stage's name, and no tensor of floats")
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
    values = values.detach().cpu() if of_torch else np.asarray(values)
    stored = str(values.dtype).removeprefix("torch.") if of_torch else values.dtype.name
    kind = {"complex64": "float32", "complex128": "float64"}.get(stored, stored)
    if kind not in ("float16", "float32", "float64") and (stored != "bfloat16" or not of_torch):
        raise ParityError(f"{name}: dtype {stored}; expected float16, bfloat16, float32, float64")
    if stored == "bfloat16":
        values = values.float()
    return Tensor(values.numpy() if of_torch else values, kind)


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
