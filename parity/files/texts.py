"""Numbers that are in no tensor format: text, CSV, JSON, raw bytes, and what printf shows.

What a port prints of a tensor - first and last values, sum, mean - makes a list. In text a line
that begins with a name begins a stage, and its facts follow in any form that people print them in:

    features (80, 3000)
      first  -0.586517 -0.586517 -0.586517
      last   -0.586517 -0.586517 -0.586517
      sum    -73915.1
      mean   -0.307979

In JSON a stage is an object: {"features": {"shape": [80, 3000], "first": [-0.586517], "sum": ...}}.
How many digits a number was printed with is kept: it is right to within half of the last one.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..noise import Array
from ..stages import ParityError
from ..stages import from_json as from_json_text

RAW = {".bin": "<f4", ".raw": "<f4", ".f32": "<f4", ".f16": "<f2", ".f64": "<f8"}
TEXTS = (".txt", ".csv", ".tsv", ".json")
MOST_TEXT, MOST_RAW = 1 << 25, 1 << 30  # bytes: 32 MiB of text are most of a GB once parsed
WITH_DIGITS = 1 << 20  # bytes: in a longer file no number's digits are kept, which is slow
PIECE = 1 << 20  # values that are looked at together
ABSURD = 1e20  # in size: hardly any value of a stage, but many if the bytes are no float32

FROM_TORCH = "safetensors.torch.save_file(torch.load(PATH), 'mine.safetensors')"
CONVERT = {
    ".pt": f"in Python, {FROM_TORCH}",
    ".pth": f"in Python, {FROM_TORCH}",
    ".ckpt": f"in Python, {FROM_TORCH}",
    ".h5": "in Python, np.savez('mine.npz', log_mel=h5py.File(PATH)['log_mel'][()])",
    ".hdf5": "in Python, np.savez('mine.npz', log_mel=h5py.File(PATH)['log_mel'][()])",
    ".mat": "in Python, np.savez('mine.npz', log_mel=scipy.io.loadmat(PATH)['log_mel'])",
    ".pkl": "in Python, np.savez('mine.npz', log_mel=pickle.load(open(PATH, 'rb')))",
    ".pickle": "in Python, np.savez('mine.npz', log_mel=pickle.load(open(PATH, 'rb')))",
    ".parquet": "in Python, np.savez('mine.npz', log_mel=pandas.read_parquet(PATH).to_numpy())",
    ".gguf": "that is a model: run it, and save what it computes",
    ".ggml": "that is a model: run it, and save what it computes",
    ".onnx": "that is a model: run it, and save what it computes",
    ".tflite": "that is a model: run it, and save what it computes",
    ".png": "that is a picture, whose numbers are rounded to 8 bits: save the array itself",
    ".jpg": "that is a picture, whose numbers are lost: save the array itself",
    ".jpeg": "that is a picture, whose numbers are lost: save the array itself",
    ".wav": "that is a clip: pass it with --audio",
    ".flac": "that is a clip: pass it with --audio",
    ".mp3": "that is a clip: pass it with --audio",
    ".pcm": "that is a clip: pass it with --audio",
}
READ = ".npz, .safetensors, .npy, raw float32 (.bin, .f32), .txt, .csv, .json or a folder of .npy"

LISTS = {"first": "first", "head": "first", "last": "last", "tail": "last"}
NUMBERS = {
    "sum": "sum",
    "total": "sum",
    "mean": "mean",
    "average": "mean",
    "avg": "mean",
    "min": "min",
    "minimum": "min",
    "max": "max",
    "maximum": "max",
    "rms": "rms",
    "std": "std",
}
FACTS = {*LISTS, *NUMBERS}
# `first 10 values:`, `first10 =`, `mean`; and a number that is no part of a word.
FACT = rf"(?P<fact>\b(?:{'|'.join([*FACTS, 'shape'])}))(?:_?\d+\b|\b)"
COUNT = r"(?:\s*\[?(?:\d+|ten)\]?(?=\s*(?:values?|elements?|numbers?|[:=])))?"
NUMBER = r"(?P<number>(?<![\w.])[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|nan|inf)(?!\w))"
TOKEN = re.compile(rf"{FACT}{COUNT}|{NUMBER}|(?P<gap>\.\.\.)", re.IGNORECASE)
HEADING = re.compile(r"(?:(?:stage|tensor|name)\s*[:=]?\s+)?([A-Za-z_/][^\s:=,()]*)\s*[:=]?\s*")
SHAPE = re.compile(r"[(\[]\s*\d+(?:\s*[,x]\s*\d+)*\s*,?\s*[)\]]|\d+(?:\s?x\s?\d+)+")


class Decimal(NamedTuple):
    """A number and how it was printed."""

    value: float
    decimals: int  # digits behind the point: 4 of 0.5800, 5 of 1.50e-3, -1 of 1.2e2
    digits: int  # that are significant

    @classmethod
    def of(cls, text: str) -> Decimal:
        whole, point, rest = text.lower().lstrip("+-").partition(".")
        fraction, _, exponent = (rest if point else whole).partition("e")
        whole = whole if point else fraction
        behind = len(fraction) if point else 0
        digits = (whole + (fraction if point else "")).lstrip("0")
        power = int(exponent) if re.fullmatch(r"[+-]?\d{1,3}", exponent) else 0
        power = min(max(power, -300), 300)
        return cls(float(text), behind - power, len(digits))


class Printed(NamedTuple):
    """What is known of a tensor of which no more was printed than this."""

    shape: tuple[int, ...] | None
    first: tuple[Decimal, ...]
    last: tuple[Decimal, ...]
    numbers: dict[str, Decimal]  # "sum", "mean", "min", "max", "rms", "std"

    @property
    def size(self) -> float | None:
        """How many values the tensor has, as far as its shape, or its sum and mean, tell."""
        if self.shape is not None:
            return math.prod(self.shape)
        if {"sum", "mean"} <= self.numbers.keys() and self.numbers["mean"].value:
            return self.numbers["sum"].value / self.numbers["mean"].value
        return None


def last_digits(numbers: tuple[Decimal, ...]) -> list[float]:
    """The unit of the last digit of each of these numbers, printed by one format.

    "%g" and JSON leave zeros out at the end: what one number lacks, the others tell. Each has as
    many places as any other, but no more significant digits.
    """
    places = 10.0 ** -max(n.decimals for n in numbers)
    most = max(n.digits for n in numbers)
    sizes = [abs(n.value) if math.isfinite(n.value) else 0.0 for n in numbers]
    if len(numbers) == 1 and places < 1:
        return [places]
    if not any(sizes) and places >= 1:
        return [0.0] * len(numbers)  # zeros without a point: no digit of theirs is lost
    return [
        max(places, 10.0 ** (math.floor(math.log10(size)) - most + 1)) if size else places
        for size in sizes
    ]


def unread(path: Path) -> ParityError:
    """The error for a file of another kind, with the way to one that is read."""
    way = CONVERT.get(path.suffix.lower())
    return ParityError(f"{path}: expected {READ}" + (f"; {way}" if way else ""))


def read_raw(path: Path) -> Array:
    """Numbers as they lie in memory, little-endian, without a header: (n,). Raises ParityError."""
    kind = np.dtype(RAW[path.suffix])
    size = path.stat().st_size
    if size > MOST_RAW:
        raise ParityError(f"{path}: {size >> 20} MiB; expected at most {MOST_RAW >> 20}")
    if not size:
        raise ParityError(f"{path}: the file is empty")
    with path.open("rb") as file:
        if file.read(4) in (b"lmgg", b"GGUF", b"PK\3\4", b"\x89HDF", b"\x93NUM", b"RIFF"):
            raise ParityError(f"{path}: a checkpoint or archive; expected {kind.name}s alone")
    if size % kind.itemsize:
        raise ParityError(f"{path}: {size} bytes are no whole number of {kind.name}s")
    values = np.fromfile(path, kind)
    with np.errstate(invalid="ignore"):
        pieces = range(0, values.size if kind.itemsize > 2 else 0, PIECE)
        absurd = sum(int(np.sum(np.abs(values[i : i + PIECE]) > ABSURD)) for i in pieces)
    if absurd > values.size / 100:
        raise ParityError(
            f"{path}: {absurd} of {values.size} values are beyond 1e20; expected {kind.name}s in "
            "little-endian order (.f32, .f16 and .f64 say which)"
        )
    return values


def read_text(path: Path) -> dict[str, Any]:
    """What a text or JSON file holds: name to array or `Printed`; "" where it has no name.

    Raises ParityError; whatever else a parser raises is the caller's to explain.
    """
    size = path.stat().st_size
    if size > MOST_TEXT:
        raise ParityError(f"{path}: {size >> 20} MiB of text; save the array as .npy or raw .f32")
    if not size:
        raise ParityError(f"{path}: the file is empty")
    text = path.read_bytes().decode("utf-8-sig", "replace")
    if path.suffix == ".json":
        return in_json(text, path)
    if re.search(rf"\b(?:{'|'.join(FACTS)})(?:\b|_?\d)", text, re.IGNORECASE):
        if len(text) > WITH_DIGITS:
            raise ParityError(f"{path}: words, and {size >> 20} MiB: too long a list; save arrays")
        return {**from_text(text, path)}
    return {"": table(text, path)}


def in_json(text: str, path: Path) -> dict[str, Any]:
    parse: Any = Decimal.of if len(text) <= WITH_DIGITS else float
    held = from_json_text(text, str(path), parse_float=parse, parse_int=parse)
    if isinstance(held, list):
        return {"": as_array(held, str(path))}
    if not isinstance(held, dict):
        raise ParityError(f"{path}: expected a list of numbers, or an object of stage to list")
    if FACTS & held.keys():
        return {"": from_json(held, path)}
    return {name: member(x, f"{path}: {name}") for name, x in held.items()}


def member(value: Any, name: str) -> Any:
    """A stage in a JSON object: an array, what was printed of one, or something else."""
    if isinstance(value, list):
        return as_array(value, name)
    if isinstance(value, dict) and FACTS & value.keys():
        return from_json(value, name)
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        values = as_array(value["data"], name)
        shape = [int(n) for n in as_array(value.get("shape", []), name).reshape(-1)]
        return values.reshape(shape) if shape and np.prod(shape) == values.size else values
    return np.array(value) if isinstance(value, (str, bool)) else np.array(str(value))


def as_array(held: list[Any], name: str) -> Array:
    """Lists of numbers, nested to any depth, as float32. Raises ParityError."""
    try:
        return np.array(plain(held), np.float64).astype(np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise ParityError(f"{name}: expected numbers, in lists of equal lengths") from error


def plain(held: Any) -> Any:
    """The same lists with each Decimal as a float."""
    if isinstance(held, list):
        return [plain(x) for x in held]
    return held.value if isinstance(held, Decimal) else held


def table(text: str, path: Path) -> Array:
    """Numbers between spaces, commas or brackets: (n,), or (rows, columns) if every line has as
    many. Lines that begin with # are comments. Raises ParityError."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    clean = "\n".join(lines).translate(str.maketrans(",;|[](){}", " " * 9))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy's for what is no number
            values = np.fromstring(clean, np.float64, sep=" ").astype(np.float32)
    except (ValueError, DeprecationWarning, RuntimeWarning) as error:
        raise ParityError(
            f"{path}: expected numbers alone, or a list as `melfront parity print` writes"
        ) from error
    columns = {len(line.split()) for line in clean.splitlines()} - {0}
    if len(columns) == 1 and 1 not in columns and len(lines) > 1:
        return values.reshape(-1, columns.pop())
    return values


# --- what printf shows ----------------------------------------------------------------------------


def from_json(held: Mapping[str, Any], name: Any) -> Printed:
    """A stage that a JSON object tells of. Raises ParityError."""
    facts: dict[str, list[Decimal]] = {}
    for key, value in held.items():
        fact = key if key == "shape" else LISTS.get(key, NUMBERS.get(key))
        if fact is None:
            continue
        numbers = value if isinstance(value, list) else [value]
        if not all(isinstance(n, (Decimal, int, float)) for n in numbers):
            raise ParityError(f"{name}: {key!r} is not a number or a list of numbers")
        facts[fact] = [n if isinstance(n, Decimal) else Decimal.of(str(float(n))) for n in numbers]
    return printed(facts, str(name))


def from_text(text: str, path: Path) -> dict[str, Printed]:
    """The stages that a list tells of, "" for one without a name. Raises ParityError."""
    stages: dict[str, dict[str, list[Decimal]]] = {}
    name, fact = "", "first"
    for line in map(str.strip, text.splitlines()):
        if line.startswith("#"):
            continue
        heading, word = HEADING.match(line), TOKEN.match(line)
        if heading and not (word and word["fact"]):
            name, fact, line = heading[1], "first", line[heading.end() :]
            if name in stages:
                raise ParityError(f"{path}: {name!r} stands there twice; keep one")
            stages[name] = {}
            if shape := SHAPE.match(line):
                stages[name]["shape"] = [Decimal.of(n) for n in re.findall(r"\d+", shape[0])]
                line = line[shape.end() :]
        for token in TOKEN.finditer(line):
            if token["fact"]:
                word_ = token["fact"].lower()
                fact = LISTS.get(word_, NUMBERS.get(word_, word_))
            elif token["gap"]:
                fact = "last"
            else:
                facts = stages.setdefault(name, {})
                facts.setdefault(fact, []).append(Decimal.of(token["number"]))
    return {name: printed(facts, f"{path}: {name}") for name, facts in stages.items()}


def printed(facts: dict[str, list[Decimal]], name: str) -> Printed:
    """What these facts tell. Raises ParityError where they tell nothing."""
    for fact in facts.keys() - {"shape", "first", "last"}:
        if len(facts[fact]) != 1:
            raise ParityError(f"{name}: {len(facts[fact])} numbers for the {fact}; expected one")
    if not facts.keys() - {"shape"}:
        raise ParityError(
            f"{name}: expected its first and last values, its sum or its mean, as "
            "`melfront parity print` writes them"
        )
    shape = tuple(int(n.value) for n in facts["shape"]) if "shape" in facts else None
    numbers = {fact: ns[0] for fact, ns in facts.items() if fact in NUMBERS.values()}
    return Printed(shape, tuple(facts.get("first", ())), tuple(facts.get("last", ())), numbers)
