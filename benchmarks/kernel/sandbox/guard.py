"""What the child knows of a kernel before it calls it: how it is loaded, and what it may not touch.

Only the standard library is imported here: this runs in the process that the kernel is loaded into.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

OURS = ("benchmarks", "encoder", "melfront", "parity")

# NaN with this payload means "nobody has written here"; arithmetic never makes it by itself.
POISON = {"float32": 0x7FC0DEAD, "float16": 0x7EDE, "bfloat16": 0x7FDE}
# What glibc fills new memory with if it is told to: 3.4e38 in float32, computed by nobody.
FRESH = {"float32": 0x7F7F7F7F, "float16": 0x7F7F, "bfloat16": 0x7F7F}
INTEGERS = {"float32": "uint32", "float16": "uint16", "bfloat16": "uint16"}

# What a kernel has no business replacing: clocks, comparisons, and everything of the harness.
WATCHED = {
    "time": "*",
    "builtins": "*",
    "os": "read write _exit dup2 kill",
    "__main__": "*",
    "__main__.Child": "*",
    "json": "dumps loads",
    "numpy": "allclose array_equal copyto isclose isfinite isnan shares_memory",
    "numpy.testing": "assert_allclose assert_array_equal",
    "torch": "allclose equal isclose isfinite isnan is_tensor from_numpy",
    "torch.testing": "assert_close",
    "torch.Tensor": "copy_ data_ptr equal allclose stride storage_offset",
    "torch.cuda": "synchronize Event",
}


class Refused(Exception):
    """The kernel cannot be used: a code of `reasons.REASONS`, and a sentence."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class Fence:
    """The first importer: finds nothing of ours, and remembers what was asked for.

    Lowered, it finds ours in our own folder and nowhere else, whatever the path says.
    """

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root) + os.sep
        self.asked: list[str] = []
        self.lowered = False

    def lower(self) -> None:
        """From now on ours is to be had, also where a kernel has a module of such a name."""
        forget_ours()
        self.lowered = True

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Any:
        if name.split(".")[0] not in OURS:
            return None
        if self.lowered:
            here = [self.root] if "." not in name else _path
            return importlib.machinery.PathFinder.find_spec(name, here)
        spec = importlib.machinery.PathFinder.find_spec(name.split(".")[0])
        # A module of the kernel's own that happens to have the name is none of ours.
        if not (spec and spec.origin) or os.path.realpath(spec.origin).startswith(self.root):
            self.asked.append(name)
            raise ImportError(f"a kernel may not import {name}, which it is compared with")
        return None


def forget_ours() -> None:
    """Modules of our names are imported anew by whoever asks for them next."""
    for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
        del sys.modules[name]


def snapshot() -> list[tuple[Any, str, Any]]:
    """Every watched function as it is now: (where, name, function)."""
    found = []
    for path, names in WATCHED.items():
        module, _, attribute = path.partition(".") if path not in sys.modules else (path, "", "")
        holder = sys.modules.get(module)
        holder = getattr(holder, attribute, None) if attribute else holder
        if holder is None:
            continue
        every = [name for name, value in vars(holder).items() if callable(value)]
        chosen = every if names == "*" else names.split()
        found += [(holder, name, getattr(holder, name)) for name in chosen if hasattr(holder, name)]
    here = Fence, sys.modules.get(__name__) or Fence
    return found + [(h, n, v) for h in here for n, v in vars(h).items() if callable(v)]


def changed(before: list[tuple[Any, str, Any]]) -> list[str]:
    """Names of the functions that are no longer what they were."""
    return [
        f"{getattr(holder, '__name__', holder)}.{name}"
        for holder, name, was in before
        if name != "_" and getattr(holder, name, None) is not was  # `_`: an interactive shell's
    ]


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def load(path: str, slot: str) -> tuple[Callable[..., Any], str, bool]:
    """The kernel of that name in a file, which arrays it wants, and whether it fills an `out`."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    try:
        with open(path, "rb") as file:
            compile(file.read(), path, "exec")
    except SyntaxError as error:
        raise Refused("SYNTAX", f"line {error.lineno}: {error.msg}") from None
    except (OSError, ValueError) as error:
        raise Refused("SYNTAX", first_line(error)) from None
    name = f"candidate_{os.path.splitext(os.path.basename(path))[0]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Refused("SYNTAX", f"{path} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        raise Refused("IMPORT", f"raises {first_line(error)} when it is loaded") from None
    function = getattr(module, slot, None)
    if not callable(function):
        defined = [n for n, v in vars(module).items() if inspect.isfunction(v) and n[0] != "_"]
        raise Refused(
            "MISSING",
            f"has no function {slot}; it defines {', '.join(defined) or 'none'}. The function "
            f"must bear the slot's name: `--template {slot}` shows it",
        )
    arrays = getattr(module, "ARRAYS", "torch")
    if arrays not in ("torch", "numpy"):
        raise Refused("SIGNATURE", f'ARRAYS is {arrays!r}, expected "torch" or "numpy"')
    try:
        takes_out = "out" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled code does not say
        takes_out = False
    return function, arrays, takes_out


def span(array: Any) -> tuple[int, int]:
    """First address of an array or tensor, and the one after its last."""
    if hasattr(array, "data_ptr"):
        size, start = array.element_size(), array.data_ptr()
        strides = [s * size for s in array.stride()]
    else:
        size, start, strides = array.itemsize, array.ctypes.data, array.strides
    reach = [(n - 1) * s for n, s in zip(array.shape, strides, strict=True)]
    return start + sum(r for r in reach if r < 0), start + sum(r for r in reach if r > 0) + size


def overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]
