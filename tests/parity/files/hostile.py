"""Files that are meant to do harm: what is in each, and the error that it gets."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save as safetensors

from tests.parity.commands import FEATURES

BYTES = FEATURES.tobytes()
TENSOR = {"dtype": "F32", "shape": [80, 37], "data_offsets": [0, len(BYTES)]}


def npy(header: str, body: bytes = BYTES, version: bytes = b"\1\0") -> bytes:
    """An .npy file with this header, which NumPy parses as a Python literal."""
    text = header.encode().ljust(117) + b"\n"
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + version + size + text + body


def header(descr: str = "'<f4'", shape: str = "(80, 37)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


def saved(values: object) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def zipped(*entries: tuple[str, bytes], packed: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packed) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


def bomb(name: str, start: bytes, size: int) -> bytes:
    """A zip of one entry that unpacks to so many zeros: a MB of it to a GiB."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(name, "w", force_zip64=True) as entry,
    ):
        entry.write(start)
        for _ in range(size >> 24):
            entry.write(bytes(1 << 24))
    return file.getvalue()


def headed(head: object, body: bytes = BYTES, length: int | None = None) -> bytes:
    """A .safetensors file with this header, said to be of this length."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def twice(one: str) -> bytes:
    return f"{{{one},{one}}}".encode()


NPY = "features.npy", saved(FEATURES)
ONE = f'"features":{json.dumps(TENSOR)}'
# What is wrong: the file's name, its bytes, and words of the error.
Hostile = tuple[str, bytes | Callable[[], bytes], str]
FILES: dict[str, Hostile] = {
    # --- .npz and .npy: sizes that are not there, archives that grow
    "npz: 300 MB in 1": (
        "a.npz",
        lambda: bomb("features.npy", npy(header(shape=f"({75 << 20},)"), b""), 300 << 20),
        "that unpack to 3",
    ),
    "npz: a bomb beside a stage": (
        "a.npz",
        lambda: bomb("junk", b"", 300 << 20),
        "save it anew, uncompressed",
    ),
    "npz: a header of PB": (
        "a.npz",
        zipped(("features.npy", npy(header(shape=f"(80, {10**13})")))),
        "needs 3,200,000,000,000,000 bytes, and 11,840 are there",
    ),
    "npy: a header of PB": (
        "features.npy",
        npy(header(shape=f"(80, {10**13})")),
        "needs 3,200,000,000,000,000 bytes, and 11,840 are there",
    ),
    "npy: a negative size": ("features.npy", npy(header(shape="(-80, -37)")), "shape (-80, -37)"),
    "npy: a type of 1 GB": ("features.npy", npy(header("'|V1000000000'")), "needs"),
    "npy: named columns": (
        "features.npy",
        npy(header(), version=b"\3\0"),
        ".npy of version (3, 0)",
    ),
    "npy: an unknown version": ("features.npy", npy(header(), version=b"\x09\0"), "(9, 0)"),
    "npy: an archive": ("features.npy", zipped(NPY), "rename it"),
    "npz: an array": ("a.npz", saved(FEATURES), "rename it"),
    "npz: a name twice": (
        "a.npz",
        lambda: zipped(NPY, ("features", saved(FEATURES - 1))),
        "'features' is in it twice; keep one",
    ),
    "npz: 20,001 entries": (
        "a.npz",
        lambda: zipped(*((f"{i}.npy", b"") for i in range(20_001)), packed=0),
        "20,001 tensors; expected at most 20,000",
    ),
    "npz: LZMA": (
        "a.npz",
        zipped(NPY, packed=zipfile.ZIP_LZMA),
        "packed in another way",
    ),
    "npz: metadata of 20 MB": (
        "a.npz",
        lambda: zipped(NPY, ("metadata.npy", bytes(20 << 20))),
        "metadata of 20,971,520 bytes",
    ),
    "npz: metadata with a key twice": (
        "a.npz",
        zipped(NPY, ("metadata.npy", saved(twice('"clip":1').decode()))),
        "'clip' is in it twice",
    ),
    "npz: a name of 5,000 characters": (
        "a.npz",
        zipped(("\x1b[31m\n" + "n" * 5000 + ".npy", saved(FEATURES))),
        "unknown stage '\\x1b[31m\\nnnn",
    ),
    # --- what no tensor of a stage is
    "60 axes": ("features.npy", saved(np.zeros((1,) * 60, "f4")), "60 axes; expected at most 16"),
    "complex features": (
        "features.npy",
        saved(FEATURES.astype("c8")),
        "features: complex numbers; only the spectrum",
    ),
    "columns": ("features.npy", saved(np.zeros(9, [("a", "f4"), ("b", "f4")])), "dtype void64"),
    "dates": ("features.npy", saved(np.zeros((80, 37), "M8[s]")), "dtype datetime64[s]"),
    "texts": ("features.npy", saved(np.full((80, 37), "abc")), "dtype str96"),
    "long doubles": (
        "features.npy",
        saved(FEATURES.astype(np.longdouble)),
        "expected float16, bfloat16",
    ),
    # --- .safetensors
    "safetensors: a name twice": ("a.safetensors", headed(twice(ONE)), "'features' is in it twice"),
    "safetensors: metadata with a key twice": (
        "a.safetensors",
        headed(b'{"__metadata__":' + twice('"n_mels":"80"') + b"," + ONE.encode() + b"}"),
        "'n_mels' is in it twice",
    ),
    "safetensors: a header of EB": (
        "a.safetensors",
        headed({"features": TENSOR}, length=2**63),
        "a header of 9,223,372,036,854,775,808 bytes",
    ),
    "safetensors: a header of 5 MB": (
        "a.safetensors",
        lambda: headed(json.dumps({"features": TENSOR}).encode() + b" " * 5_000_000),
        "at most 4,194,304",
    ),
    "safetensors: a tensor of TB": (
        "a.safetensors",
        headed({"features": {**TENSOR, "shape": [80, 10**10], "data_offsets": [0, 32 * 10**11]}}),
        "not a whole file of its kind",
    ),
    "safetensors: overlapping": (
        "a.safetensors",
        headed({"features": TENSOR, "mel": TENSOR}),
        "not a whole file of its kind",
    ),
    "safetensors: bytes of no tensor": (
        "a.safetensors",
        headed({"features": TENSOR}, BYTES + b"more"),
        "not a whole file of its kind",
    ),
    "safetensors: nested too deep": (
        "a.safetensors",
        headed(b"[" * 100_000),
        "not whole JSON",
    ),
    "safetensors: 100 axes": (
        "a.safetensors",
        headed({"features": {**TENSOR, "shape": [1] * 100, "data_offsets": [0, 4]}}, bytes(4)),
        "100 axes",
    ),
    "safetensors: a size beyond all numbers": (
        "a.safetensors",
        headed({"features": {**TENSOR, "shape": [2**62, 0], "data_offsets": [0, 0]}}, b""),
        "features: no array of numbers can be made of it",
    ),
    # --- texts
    "json: nested too deep": ("a.json", b"[" * 10_000 + b"1" + b"]" * 10_000, "not whole JSON"),
    "json: a name twice": ("a.json", twice('"features":[1]'), "'features' is in it twice"),
    "json: 20,001 names": (
        "a.json",
        json.dumps({f"n{i}": [1] for i in range(20_001)}).encode(),
        "20,001 tensors",
    ),
    "txt: 33 MB": ("features.txt", lambda: b"1.5 " * (33 << 18), "33 MiB of text"),
    "txt: 20,001 names": (
        "a.txt",
        "".join(f"n{i}: first 1\n" for i in range(20_001)).encode(),
        "20,001 tensors",
    ),
    # --- raw numbers
    "raw: an .npy": ("features.bin", saved(FEATURES), "a checkpoint or archive"),
    "raw: a clip": ("features.bin", b"RIFF" + bytes(400), "a checkpoint or archive"),
    "pt: a pickle": ("a.pt", b"\x80\2}q\0.", "torch.load(PATH)"),
}


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


# What is no file, but has the name of one: how it is made, and words of the error.
KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (Path.mkdir, ""),
    "a pipe": (os.mkfifo, "no regular file"),
    "/dev/zero": (device, "no regular file"),
    "a link to nowhere": (lambda path: path.symlink_to("nowhere"), "no such file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), ""),
}

UNITS = {
    "not JSON": (b"{", "not whole JSON"),
    "nested too deep": (b"[" * 100_000, "not whole JSON"),
    "a list": (b"[]", "list; expected units"),
    "a name twice": (twice('"features":9'), "'features' is in it twice"),
    "a stage twice": (b'{"features": 9, "log_mel": 99}', "'features' is in it twice"),
    "NaN": (b'{"features": NaN}', "features: nan; expected units"),
    "400 digits": (b'{"features": ' + b"9" * 400 + b"}", "expected units"),
    "5,000 digits": (b'{"features": ' + b"9" * 5000 + b"}", "not whole JSON"),
    "control characters": (b'{"features": "\\u001b[31m"}', "expected units"),
    "an unknown stage": (b'{"\\u001b[31m": 1}', "unknown stage '\\x1b[31m'"),
    "no text": (b"\xff\xfe\0", "not a text"),
    "2 MB": (b" " * (2 << 20), "2,097,152 bytes"),
}
NUMBERS = {"features": FEATURES[:2].tolist(), "mel": {"sum": 3.5, "shape": [80, 37]}}
SAID = {"floor.features": "1e-6", "n_mels": "80"}
WHOLE = {
    "features.npy": saved(FEATURES),
    "stored.npz": zipped(NPY, packed=0),
    "deflated.npz": zipped(NPY, ("metadata.npy", saved('{"n_mels": 80}'))),
    "a.safetensors": safetensors({"features": FEATURES}, SAID),
    "a.json": json.dumps(NUMBERS).encode(),
    "a.txt": b"features (80, 37)\n first -0.5 3e-2\n last 1 ... 2\n sum -73.1\n\nmel:\n mean 0.5",
    "features.csv": "\n".join(",".join(map(str, row)) for row in FEATURES[:3]).encode(),
    "features.f32": BYTES[:200],
}
