"""What a kernel may not do in its own process: import our packages, replace what the harness uses.

Our packages cannot be imported there (`ImportGuard`), and functions that a kernel has replaced are
found (`snapshot`, `changed`). `sandbox/guard.py` has the defences that lie outside of it.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
from collections.abc import Iterable
from typing import Any

OURS = ("benchmarks", "encoder", "melfront", "parity")

# Functions that no kernel has reason to replace: clocks, comparisons, and those of the harness.
WATCHED = {
    "time": "*",
    "builtins": "*",
    "os": "read write _exit dup2 kill",
    "__main__": "*",
    "json": "dumps loads",
    "numpy": "allclose array_equal copyto isclose isfinite isnan shares_memory",
    "numpy.testing": "assert_allclose assert_array_equal",
    "torch": "allclose equal isclose isfinite isnan is_tensor from_numpy",
    "torch.testing": "assert_close",
    "torch.Tensor": "copy_ data_ptr equal allclose stride storage_offset",
    "torch._C": "_cuda_synchronize",
    "torch.cuda": "synchronize Event Stream current_stream set_stream",
    "torch.cuda.Event": "record wait query elapsed_time synchronize",
    "torch.cuda.Stream": "wait_event wait_stream record_event query synchronize",
}
Watched = list[tuple[Any, str, Any]]  # where, name, function


class ImportGuard:
    """The first importer: hides our packages, and remembers what was asked for.

    Lowered, it finds our packages in our own folder only, whatever the path says.
    """

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root) + os.sep
        self.asked: list[str] = []
        self.lowered = False

    def lower(self) -> None:
        """Let our packages be imported, even if a kernel has a module of such a name."""
        forget_ours()
        self.lowered = True

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Any:
        if name.split(".")[0] not in OURS:
            return None
        if self.lowered:
            # In a checkout, root holds melfront; installed, root is melfront.
            here = [self.root, os.path.dirname(self.root.rstrip(os.sep))]
            found = importlib.machinery.PathFinder.find_spec
            return found(name, here) if name == "melfront" else None
        spec = importlib.machinery.PathFinder.find_spec(name.split(".")[0])
        # A module of the kernel's own may have the same name.
        if not (spec and spec.origin) or os.path.realpath(spec.origin).startswith(self.root):
            self.asked.append(name)
            raise ImportError(f"a kernel may not import {name}, which it is compared with")
        return None

    def imports(self) -> list[str]:
        """Our modules that a kernel has asked for, or has got in another way."""
        ours = [n for n in sys.modules if n.split(".")[0] in OURS]
        files = {n: getattr(sys.modules[n], "__file__", "") or "" for n in ours}
        return sorted({*self.asked, *(n for n in ours if files[n].startswith(self.root))})


def forget_ours() -> list[Any]:
    """Take our modules out of `sys.modules`, so that no kernel finds them there; returns them."""
    names = [name for name in sys.modules if name.split(".")[0] in OURS]
    return [sys.modules.pop(name) for name in names]


def snapshot(own: Iterable[Any]) -> Watched:
    """Every watched function as it is now, and those of `own`, our classes and modules.

    A name that is not there yet is watched too: a torch without CUDA has fewer of them.
    """
    holders: list[tuple[Any, str]] = []
    for path, names in WATCHED.items():
        module, _, attribute = path.rpartition(".")
        found = sys.modules.get(path) or getattr(sys.modules.get(module), attribute, None)
        if found is not None:
            holders.append((found, names))
    holders += [(holder, "*") for holder in own if holder]
    return [
        (holder, name, getattr(holder, name, None))
        for holder, names in holders
        for name in (list(vars(holder)) if names == "*" else names.split())
        if names != "*" or callable(getattr(holder, name))
    ]


def changed(before: Watched) -> list[str]:
    """Names of the functions that have been replaced since."""
    return [
        f"{getattr(holder, '__name__', holder)}.{name}"
        for holder, name, was in before
        if name != "_" and getattr(holder, name, None) is not was  # `_`: an interactive shell's
    ]


def modes(torch: Any) -> list[str]:
    """Modes that a kernel has left on, which see every call of torch and may answer it."""
    stacks = {"function": "_len_torch_function_stack", "dispatch": "_len_torch_dispatch_stack"}
    on = [name for name, length in stacks.items() if getattr(torch._C, length)()]
    return [f"every call of torch, by a {n} mode, as set_default_device does" for n in on]
