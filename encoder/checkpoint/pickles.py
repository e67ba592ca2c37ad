"""Reads where a PyTorch file has its tensors. None of its code is run, and no tensor is made.

A pickle is a program. `pickletools` decodes it, and a machine with a stack and a memory follows
what a state_dict needs of it: torch.load(weights_only=True) also makes tensors of every kind and
size that a file names, and hashes whatever is a key, which can take for ever.

A file is a zip archive, or, as PyTorch before 1.6 wrote it, a pickle each of a magic number, the
version of the protocol, the machine, the object and the storages' keys, and then the storages,
each as its number of elements and their bytes. https://pytorch.org/docs/stable/notes/serialization
"""

from __future__ import annotations

import io
import pickletools
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

# Of a pickle, so that each takes under a second. large-v3 has 50,000 and 200 kB.
MOST_STEPS = 500_000
MOST_BYTES = 8 << 20
TORCHSCRIPT = "TorchScript program"
MAGIC = 0x1950A86A20F9469CFC6C
# The types of storages: torch.FloatStorage. Any other is counted in bytes.
DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "QInt32": torch.qint32,
}
# What torch.load(weights_only=True) takes too. It becomes a name here, which nobody calls.
KNOWN = re.compile(
    r"collections\.(OrderedDict|Counter|defaultdict)|(builtins|__builtin__)\.(set|bytearray|complex)"
    r"|_codecs\.encode|torch\.(Size|device|Tensor|[a-z]+\d\w*|bool|nn\.parameter\.(Parameter|Buffer))"
    r"|torch\.(storage\.)?\w+Storage|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_\w+"
    r"|torch\.serialization\._get_layout"
)


class NotTensors(ValueError):
    """A pickle that asks for a class or a function that no state_dict needs: its name."""


class Named(NamedTuple):
    """A class or a function, or what it would return."""

    name: str


class Storage(NamedTuple):
    dtype: torch.dtype
    key: str
    numel: int


class View(NamedTuple):
    """A tensor: some elements of a storage."""

    storage: Storage
    offset: int  # this and the strides in elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def is_dense(self) -> bool:
        """Do its elements lie one after the other, the last axis fastest?"""
        step = 1
        for n, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n > 1 and stride != step:
                return False
            step *= n
        return True

    def span(self) -> int:
        """Elements of the storage from its first to its last."""
        axes = zip(self.shape, self.strides, strict=True)
        return 0 if 0 in self.shape else 1 + sum((n - 1) * stride for n, stride in axes)


Members = Mapping[str, tuple[int, int, bool]]
Places = dict[str, tuple[int, int]]


def read(path: Path, members: Members | None) -> tuple[Any, Places]:
    """The object of a file, and the bytes of each storage in it, by key, as begin and end.

    members: of a zip archive, by name: begin and end in bytes, and whether it is stored.
    The object has a View in the place of each tensor, and a Named in that of anything else that is
    neither a container nor a number nor text. Raises NotTensors, or ValueError in one line.
    """
    try:
        return _read_legacy(path) if members is None else _read_zip(path, members)
    except (LookupError, TypeError, AttributeError, struct.error, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _read_zip(path: Path, members: Members) -> tuple[Any, Places]:
    root = next(name for name in [*members, "/data.pkl"] if name.endswith("/data.pkl"))
    root = root.removesuffix("data.pkl")
    if f"{root}constants.pkl" in members:
        raise NotTensors(TORCHSCRIPT)
    if not all(is_stored for *_, is_stored in members.values()):
        raise ValueError(
            "it is compressed, which PyTorch's files are not: write it with torch.save"
        )
    with path.open("rb") as file:

        def content(name: str) -> bytes:
            begin, end, _ = members[root + name]
            if end - begin > MOST_BYTES:
                raise ValueError(f"a {name} of {end - begin} bytes")
            file.seek(begin)
            return file.read(end - begin)

        if f"{root}byteorder" in members and content("byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        found = Machine().run(io.BytesIO(content("data.pkl")))
    data = f"{root}data/"
    return found, {
        name.removeprefix(data): (begin, end)
        for name, (begin, end, _) in members.items()
        if name.startswith(data)
    }


def _read_legacy(path: Path) -> tuple[Any, Places]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = io.BytesIO(file.read(MOST_BYTES))
        machine = Machine()
        if (magic := machine.run(start)) != MAGIC:
            raise ValueError("it begins with another pickle" if magic else "no magic number")
        machine.run(start)
        if machine.run(start).get("little_endian") is not True:
            raise ValueError("its numbers are big-endian")
        found, keys = machine.run(start), machine.run(start)
        places = {}
        end = start.tell()
        for key in keys:
            file.seek(end)
            (numel,) = struct.unpack("<q", file.read(8))
            begin = end + 8
            end = begin + numel * machine.storages[key].dtype.itemsize
            if key in places or not begin <= end <= size:
                raise ValueError(f"a storage of {numel} elements at byte {begin} of {size}")
            places[key] = begin, end
    return found, places


class Machine:
    """Follows pickles."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []  # where in the stack
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.steps = 0

    def run(self, file: io.BytesIO) -> Any:
        """The object of the next pickle of a file."""
        self.stack, self.marks, self.memo = [], [], {}
        for op, arg, _ in pickletools.genops(file):
            self.steps += 1
            if self.steps > MOST_STEPS:
                raise ValueError(f"a pickle of more than {MOST_STEPS} steps")
            if op.name in VALUES:
                self.stack.append(arg)
            elif op.name in EMPTY:
                self.stack.append(EMPTY[op.name]())
            elif op.name in STEPS:
                STEPS[op.name](self, arg)
            else:
                raise ValueError(f"a pickle with {op.name}")
        return self.stack.pop()

    def popped(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise ValueError("a pickle that takes more than it has")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def after_mark(self) -> list[Any]:
        return self.popped(len(self.stack) - self.marks.pop())

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def memoize(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        """Of a dictionary those whose key is text; no other key is hashed."""
        if isinstance(target := self.stack[-1], dict):
            pairs = zip(items[::2], items[1::2], strict=True)
            target.update((key, value) for key, value in pairs if type(key) is str)

    def push_dict(self, items: list[Any]) -> None:
        self.push({})
        self.set_items(items)

    def append(self, items: list[Any]) -> None:
        if isinstance(target := self.stack[-1], list):
            target.extend(items)

    def find(self, module: Any, name: Any) -> Named:
        if not KNOWN.fullmatch(full := f"{module}.{name}"):
            raise NotTensors(full)
        return Named(full)

    def storage(self, about: Any) -> Storage:
        """What a persistent id says: "storage", its type, its key, its device, its length."""
        word, kind, key, _, numel, *view = about
        if word != "storage" or type(key) is not str or type(numel) is not int or any(view):
            raise ValueError("a pickle with a persistent id that is no storage")
        kind = kind.name.rpartition(".")[2].removesuffix("Storage")
        self.storages[key] = Storage(DTYPES.get(kind, torch.uint8), key, numel)
        return self.storages[key]


def call(function: Any, args: Any) -> Any:
    """What a function would return."""
    name = function.name
    while name == "torch._tensor._rebuild_from_type_v2":  # a subclass: the function, type, args
        function, _, args = args[:3]
        name = function.name
    if name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
        storage, offset, shape, strides = args[:4]
        return view(storage, offset, tuple(shape), tuple(strides))
    if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        return args[0]
    return {} if name == "collections.OrderedDict" else function


def view(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> View:
    """A View. Raises ValueError if it is not within its storage."""
    numbers = (storage.numel, offset, *shape, *strides)
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers) or len(shape) > 8:
        raise ValueError("a tensor of a strange shape")
    found = View(storage, offset, shape, strides)
    if offset + found.span() > storage.numel:
        raise ValueError("a tensor beyond its storage")
    return found


VALUES = {  # what they push is their argument
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
}
EMPTY: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
STEPS: Mapping[str, Callable[[Machine, Any], object]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "STOP": lambda m, _: None,
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.popped(1),
    "POP_MARK": lambda m, _: m.after_mark(),
    "BINPUT": Machine.memoize,
    "LONG_BINPUT": Machine.memoize,
    "PUT": Machine.memoize,
    "MEMOIZE": Machine.memoize,
    "BINGET": lambda m, place: m.push(m.memo[place]),
    "LONG_BINGET": lambda m, place: m.push(m.memo[place]),
    "GET": lambda m, place: m.push(m.memo[place]),
    "TUPLE": lambda m, _: m.push(tuple(m.after_mark())),
    "TUPLE1": lambda m, _: m.push(tuple(m.popped(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.popped(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.popped(3))),
    "LIST": lambda m, _: m.push(m.after_mark()),
    "DICT": lambda m, _: m.push_dict(m.after_mark()),
    "APPEND": lambda m, _: m.append(m.popped(1)),
    "APPENDS": lambda m, _: m.append(m.after_mark()),
    "ADDITEMS": lambda m, _: m.after_mark(),
    "SETITEM": lambda m, _: m.set_items(m.popped(2)),
    "SETITEMS": lambda m, _: m.set_items(m.after_mark()),
    "GLOBAL": lambda m, arg: m.push(m.find(*arg.split(" ", 1))),
    "STACK_GLOBAL": lambda m, _: m.push(m.find(*m.popped(2))),
    "REDUCE": lambda m, _: m.push(call(*m.popped(2))),
    "NEWOBJ": lambda m, _: m.push(call(*m.popped(2))),
    "BINPERSID": lambda m, _: m.push(m.storage(*m.popped(1))),
    "BUILD": lambda m, _: m.popped(1),
}
