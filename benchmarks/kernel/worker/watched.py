"""What a kernel may not do in its own process: import our packages, replace what the harness uses.

Our packages cannot be imported there (`ImportGuard`), and functions that a kernel has replaced are
found (`snapshot`, `changed`). `sandbox/guard.py` has the defences that lie outside of it.

In the encoder a kernel is called many times within one timed call. There `Lookout` also checks what
the encoder calls after one of them, chosen by chance.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Iterable
from operator import is_not
from types import BuiltinMethodType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from .loading import Candidate

OURS = ("benchmarks", "encoder", "melfront", "parity")

# Functions that no kernel has reason to replace: clocks, comparisons, the harness's own, and what
# the encoder is made of. "*" is every function and module in a module, every name in a class.
WATCHED = {
    "time": "*",
    "builtins": "*",
    "os": "read write _exit dup2 kill urandom",
    "__main__": "*",
    "json": "dumps loads",
    "numpy": "*",
    "numpy.fft": "*",
    "numpy.testing": "assert_allclose assert_array_equal",
    "torch": "*",
    "torch.fft": "*",
    "torch.linalg": "*",
    "torch.nn.functional": "*",
    "torch.testing": "assert_close",
    "torch.Tensor": "*",
    "torch.nn.Module": "__call__ _call_impl _wrapped_call_impl __getattr__ modules parameters",
    "torch.nn.Linear": "forward",
    "torch.nn.LayerNorm": "forward",
    "torch.nn.Conv1d": "forward",
    "torch._C": "_cuda_synchronize",
    "torch.cuda": "synchronize Event Stream current_stream set_stream",
    "torch.cuda.Event": "record wait query elapsed_time synchronize",
    "torch.cuda.Stream": "wait_event wait_stream record_event query synchronize",
}
# Replaced by torch.compile; and by an interactive shell.
FREE = {("torch", "manual_seed"), ("builtins", "_")}


class Watch(NamedTuple):
    """A name, and what it stands for."""

    holder: Any
    name: str
    value: Any
    insides: tuple[Any, ...]  # of a Python function


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
        """Our modules that a kernel has asked for, or has got in another way before they came."""
        if self.lowered:
            return sorted(set(self.asked))
        ours = [n for n in sys.modules if n.split(".")[0] in OURS]
        files = {n: getattr(sys.modules[n], "__file__", "") or "" for n in ours}
        return sorted({*self.asked, *(n for n in ours if files[n].startswith(self.root))})


def forget_ours() -> list[Any]:
    """Take our modules out of `sys.modules`, so that no kernel finds them there; returns them."""
    names = [name for name in sys.modules if name.split(".")[0] in OURS]
    return [sys.modules.pop(name) for name in names]


def snapshot(own: Iterable[Any]) -> list[Watch]:
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
        Watch(holder, name, value := getattr(holder, name, None), insides(value))
        for holder, names in holders
        for name in (everything(holder) if names == "*" else names.split())
        if (getattr(holder, "__name__", ""), name) not in FREE
    ]


def everything(holder: Any) -> list[str]:
    """All names of a class; those of a module's or object's functions and modules."""
    if isinstance(holder, type):
        return [name for name in dir(holder) if name != "__dict__"]  # a new view each time
    return [
        name
        for name, value in vars(holder).items()
        if callable(value) or isinstance(value, ModuleType)
    ]


def insides(value: Any, depth: int = 3) -> tuple[Any, ...]:
    """What a Python function runs and reads: its code, its defaults, what its closure holds."""
    function = value.fget if type(value) is property else getattr(value, "__func__", value)
    if type(function) is not FunctionType or not depth:
        return ()
    cells: list[Any] = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty one
            cells.append(cell.cell_contents)
    inner = [part for cell in cells for part in insides(cell, depth - 1)]
    keywords = (function.__kwdefaults__ or {}).values()
    return (function.__code__, function.__defaults__, *keywords, *cells, *inner)


def replaced(watch: Watch) -> bool:
    """Whether this name now stands for something else, or for a function of other code."""
    value = getattr(watch.holder, watch.name, None)
    # A method bound to its class is a new object whenever it is asked for.
    bound = type(value) is type(watch.value) in (MethodType, BuiltinMethodType)
    if value is not watch.value and not (bound and value == watch.value):
        return True
    now = insides(value)
    return len(now) != len(watch.insides) or any(map(is_not, now, watch.insides))


def changed(before: Iterable[Watch]) -> list[str]:
    """Names of the functions that have been replaced since."""
    return [
        f"{getattr(w.holder, '__name__', type(w.holder).__name__)}.{w.name}"
        for w in before
        if replaced(w)
    ]


def kernels(torch: Any) -> dict[str, str]:
    """torch's own list of what runs for each operator. Meta computes shapes alone: left out."""
    lines = {n: torch._C._dispatch_dump(n) for n in torch._C._dispatch_get_all_op_names()}
    return {
        name: "\n".join(line for line in text.splitlines() if not line.startswith("Meta"))
        for name, text in lines.items()
        if name.startswith("aten::")
    }


def our_code() -> list[Any]:
    """Our modules that are loaded, and the classes in them."""
    modules = [m for n, m in list(sys.modules.items()) if n.split(".")[0] in OURS]
    classes = {
        id(value): value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__.split(".")[0] in OURS
    }
    return [*modules, *classes.values()]


def called(code: Iterable[Any]) -> set[str]:
    """The names that these modules and classes use."""
    stack = [
        value.__code__
        for holder in code
        for value in vars(holder).values()
        if type(value) is FunctionType
    ]
    names: set[str] = set()
    while stack:
        found = stack.pop()
        names.update(found.co_names)
        stack += [inner for inner in found.co_consts if type(inner) is CodeType]
    return names


def our_models(torch: Any) -> list[Any]:
    """Our models in this process, and their parts."""
    found = [
        o
        for o in gc.get_objects()
        if issubclass(type(o), torch.nn.Module) and type(o).__module__.split(".")[0] in OURS
    ]
    return list({id(part): part for model in found for part in model.modules()}.values())


def makeup(models: list[Any]) -> list[tuple[str, Any]]:
    """What the parts of a model are: attributes, hooks, parts, weights and where those are."""
    seen: list[tuple[str, Any]] = []
    for part in models:
        kind = type(part).__name__
        seen.append((kind, type(part)))
        for name, value in vars(part).items():
            seen.append((f"{kind}.{name}", value))
            if isinstance(value, dict):
                seen += [(f"{kind}.{name}.{key}", inner) for key, inner in value.items()]
        for name, weight in part._parameters.items():
            if weight is not None:
                seen.append((f"{kind}.{name}", (weight.data_ptr(), weight._version)))
    return seen


def rebuilt(before: list[tuple[str, Any]], now: list[tuple[str, Any]]) -> list[str]:
    """Which of these have changed."""
    if len(before) != len(now):
        return sorted({name for name, _ in before} ^ {name for name, _ in now}) or ["a model"]
    return [
        name
        for (name, was), (_, value) in zip(before, now, strict=True)
        if value is not was and not (type(was) is tuple and value == was)
    ]


class Lookout:
    """What a kernel may not change in a process, as it was when this was made."""

    def __init__(self, torch: Any, own: Iterable[Any]) -> None:
        """own: our classes and modules, to be watched too."""
        self.torch = torch
        self.names = snapshot(own)
        self.kernels = kernels(torch)
        self.models: list[Any] = []
        self.makeup: list[tuple[str, Any]] = []
        self.found: list[str] = []
        self.calls, self.look_at = 0, 1  # of the kernel within one of ours; after which to look

    def add_ours(self) -> None:
        """Watch our own modules and models too, which have been loaded by now."""
        ours = our_code()
        self.names += snapshot(ours)
        self.models = our_models(self.torch)
        self.makeup = makeup(self.models)
        names = called(ours)
        self.used = [watch for watch in self.names if watch.name in names]

    def among_ours(self, kernel: Candidate, restore: Callable[[], None]) -> Candidate:
        """A kernel for functions of ours to call; restore: sets back what it has set."""
        function = self.looked_after(kernel.function, restore)
        prepare = kernel.prepare and self.looked_after(kernel.prepare, restore)
        return kernel._replace(function=function, prepare=prepare)

    def looked_after(
        self, function: Callable[..., Any], restore: Callable[[], None]
    ) -> Callable[..., Any]:
        """A function of the kernel's, with a look at what it replaces after one call of it."""

        def call(*args: Any, **kwargs: Any) -> Any:
            # A context of its own: it may not choose other ops for the rest of the encoder.
            result = contextvars.copy_context().run(function, *args, **kwargs)
            restore()
            self.calls += 1
            if self.calls == self.look_at:
                self.found += changed(self.used) + modes(self.torch)
            return result

        return call

    def next_run(self) -> None:
        """Our own function is called again: look after another of the kernel's calls."""
        self.look_at = 1 + int.from_bytes(os.urandom(4), "little") % max(1, self.calls)
        self.calls = 0

    def changes(self) -> list[str]:
        """What has changed, in words."""
        now = kernels(self.torch)
        operators = [f"torch.ops.{n}" for n, text in self.kernels.items() if now.get(n) != text]
        found = [*self.found, *changed(self.names), *rebuilt(self.makeup, makeup(self.models))]
        return list(dict.fromkeys([*found, *operators, *modes(self.torch)]))


def modes(torch: Any) -> list[str]:
    """Modes that a kernel has left on, which see every call of torch and may answer it."""
    stacks = {"function": "_len_torch_function_stack", "dispatch": "_len_torch_dispatch_stack"}
    on = [name for name, length in stacks.items() if getattr(torch._C, length)()]
    return [f"every call of torch, by a {n} mode, as set_default_device does" for n in on]
