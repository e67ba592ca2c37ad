"""The process that a candidate kernel runs in: calls it, and lays its results into shared memory.

`fork_server.py` forks it. A worker loads the kernel, is told where in shared memory the arguments
of a case are, and then answers "go": it calls the kernel, says that it has returned, and copies the
result into shared memory, where the parent looks at it.

Nothing here judges. Truth, seeds, contents, clocks and the verdict are the parent's; a worker says
of itself only what the parent cannot see from outside: the class of a result, and whether it shares
memory with an argument. A kernel that lies about that must still deliver the right numbers in
time.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import inspect
import json
import mmap
import os
import sys
from collections.abc import Callable
from typing import Any

from ..reasons import Refused
from .compilers import compiled, set_environment, watch_interpreter
from .guard import ImportGuard, Watched, changed, snapshot
from .loading import first_line, load
from .memory import POISON, overlap, span

Told = dict[str, Any]  # what goes from one process to the other, as JSON


class Worker:
    """One kernel and its shared memory. A command is "G", which is go, or a method in JSON."""

    def __init__(self, fds: list[int], size: int, own: list[Any]) -> None:
        """fds: commands in, replies out, shared memory of `size` bytes; own: modules to watch."""
        self.commands, self.replies, memory = fds
        self.arena = mmap.mmap(memory, size)
        self.own = [*own, Worker, ImportGuard, Refused]
        self.functions: dict[str, tuple[Callable[..., Any], str]] = {}
        self.takes_out = False
        self.before: Watched = []

    # --- commands -----------------------------------------------------------------------------

    def load(
        self, root: str, threads: int, device: str, path: str = "", slot: str = "", ours: Any = None
    ) -> Told:
        """Load the kernel's file, or our own functions, or both; says what was found.

        ours: a module, its function that returns our functions, and that function's arguments.
        """
        import numpy as np
        import torch

        limit_threads(torch, threads)
        torch.set_grad_enabled(False)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.np, self.torch, self.device = np, torch, device
        set_environment(device)
        self.guard = ImportGuard(root)
        sys.meta_path.insert(0, self.guard)
        candidate = None
        if path:
            if not ours:
                self.perturb(True)
            self.before = snapshot(self.own)
            candidate = load(path, slot)
            function, arrays, self.takes_out = candidate
            self.functions = {"": (function, arrays)}
        if ours:
            self.guard.lower()
            module, maker, arguments = ours
            self.functions = getattr(importlib.import_module(module), maker)(candidate, *arguments)
            self.takes_out = False
        self.triton = watch_interpreter()
        arrays = next(iter(self.functions.values()))[1]
        return {"arrays": arrays, "triton": bool(self.triton)}

    def case(
        self, args: list[Told], kwargs: Told, outs: list[Told], function: str, bind: str, hold: int
    ) -> Told:
        """Find the arguments of a case in the shared memory, for one of the functions."""
        self.function, self.arrays = self.functions[function]
        self.outs, self.kwargs = outs, kwargs
        self.hosts: list[tuple[Any, Any]] = []
        self.args = [self.place(spec) for spec in args]
        self.targets = [self.host(spec).view(spec["shape"]) for spec in outs]
        self.single = len(outs) == 1
        self.held: list[Any] = []  # the last results: the next may not be their memory
        self.hold = hold * len(outs)
        if bind:
            try:
                named = {**kwargs, "out": 0} if self.takes_out else kwargs
                inspect.signature(self.function).bind(*self.args, **named)
            except TypeError as error:
                raise Refused("SIGNATURE", f"{error}; the slot is {bind}") from None
            except ValueError:
                pass  # compiled code has no signature
        return {"compiled": compiled()}

    def perturb(self, on: bool) -> Told:
        """Have new memory filled with a mark (FRESH), or not, which costs no time."""
        with contextlib.suppress(AttributeError, OSError):  # glibc only
            ctypes.CDLL(None).mallopt(-6, 0x80 if on else 0)  # M_PERTURB
        return {}

    def poison(self) -> Told:
        """Put poison into `out`, and into freed memory, where the next `empty` finds it."""
        given = [self.poisoned(spec) for spec in self.outs] if self.takes_out else []
        self.given = given[0] if given and self.single else given
        spare = [self.poisoned(spec) for spec in self.outs]
        spare.clear()
        return {}

    def to_device(self) -> Told:
        """Copy new contents into a GPU's buffers, and clear them from its cache."""
        for device, host in self.hosts:
            device.copy_(host)
        size = getattr(self.torch.cuda.get_device_properties(0), "L2_cache_size", 1 << 26)
        self.torch.empty(2 * size, dtype=self.torch.uint8, device=self.device).zero_()
        self.torch.cuda.synchronize()
        return {}

    def inspect(self) -> Told:
        """What the kernel has replaced, what it has imported of ours, and whether Triton ran it."""
        # Also what hides one of our methods in this object alone, or removes the guard.
        tampered = changed(self.before) + sorted(set(vars(self)) & set(dir(Worker)))
        if self.guard not in sys.meta_path:
            tampered.append("sys.meta_path")
        interpreted = any(self.triton.values())
        return {"tampered": tampered, "ours": self.guard.imports(), "interpreted": interpreted}

    # --- memory -------------------------------------------------------------------------------

    def host(self, spec: Told) -> Any:
        """All the memory under an argument, as a flat torch tensor on the arena."""
        dtype, count = getattr(self.torch, spec["dtype"]), spec["span"]
        return self.torch.frombuffer(self.arena, dtype=dtype, count=count, offset=spec["offset"])

    def place(self, spec: Told) -> Any:
        """An argument: a number as it is; an array at its place in the arena, or on the device."""
        if "value" in spec:
            return spec["value"]
        flat = self.host(spec)
        if self.device != "cpu":
            self.hosts.append((flat.to(self.device), flat))
            flat = self.hosts[-1][0]
        tensor = flat.as_strided(spec["shape"], spec["strides"])
        if self.arrays == "torch":
            return tensor
        out = tensor.numpy()
        out.flags.writeable = False
        return out

    def poisoned(self, spec: Told) -> Any:
        """New memory in the form of a result, with the mark of what has not been written."""
        dtype = getattr(self.torch, spec["dtype"])
        tensor = self.torch.empty(spec["shape"], dtype=dtype, device=self.device)
        integer = getattr(self.torch, f"int{8 * tensor.element_size()}")
        tensor.view(integer).fill_(POISON[spec["dtype"]])
        return tensor.numpy() if self.arrays == "numpy" else tensor

    # --- one call -----------------------------------------------------------------------------

    def go(self) -> Told:
        """Call the kernel, say when it has returned, and copy its result out."""
        kwargs = {**self.kwargs, "out": self.given} if self.takes_out else self.kwargs
        answer = {}
        try:
            if self.device == "cpu":
                result = self.function(*self.args, **kwargs)
            else:
                start = self.torch.cuda.Event(enable_timing=True)
                end = self.torch.cuda.Event(enable_timing=True)
                start.record()
                result = self.function(*self.args, **kwargs)
                end.record()
                self.torch.cuda.synchronize()
                answer["event_ms"] = start.elapsed_time(end)
        except BaseException as error:
            self.returned()
            code = "EXIT" if isinstance(error, SystemExit) else "RAISED"
            if isinstance(error, ValueError) and "read-only" in str(error):
                code = "MUTATED"
            raise Refused(code, first_line(error)) from None
        self.returned()
        return answer | self.copy_out(result)

    def returned(self) -> None:
        """Say so, and sleep until the parent has seen that nothing works on."""
        os.write(self.replies, b"r\n")
        read_line(self.commands)

    def copy_out(self, result: Any) -> Told:
        """Copy a result into the parent's memory, if it has the form that a result must have."""
        if not self.outs:  # the empty call, which is timed to know what a call costs
            return {}
        if self.takes_out and result is None:
            result = self.given
        results = [result] if self.single else result
        if type(results) not in (tuple, list):
            raise Refused("TYPE", f"returns {type(result).__name__}, expected a tuple")
        if len(results) != len(self.outs):
            raise Refused("SHAPE", f"returns {len(results)} arrays, expected {len(self.outs)}")
        for got, spec in zip(results, self.outs, strict=True):
            self.formed(got, spec)
        if shared := self.shared(results):
            raise Refused("ALIAS", f"returns the memory of {shared}")
        numpy = self.arrays == "numpy"
        for got, target in zip(results, self.targets, strict=True):
            if numpy:
                self.np.copyto(target.numpy(), got)
            else:
                target.copy_(got)
        # A kernel that fills `out` returns what it was given, which is new every time.
        self.held = [*results, *self.held[: self.hold]]
        return {"dense": all(r.flags.c_contiguous if numpy else r.is_contiguous() for r in results)}

    def formed(self, got: Any, spec: Told) -> None:
        """Refuse a result that has not the form that it must have."""
        right: Any = self.torch.Tensor if self.arrays == "torch" else self.np.ndarray
        if type(got) is not right:
            kind = f"{type(got).__module__}.{type(got).__name__}"
            wanted = f"{right.__module__}.{right.__name__}"
            text = f"returns {kind}, expected {wanted} itself: nothing lazy, no subclass"
            raise Refused("TYPE", text)
        if list(got.shape) != spec["shape"]:
            raise Refused("SHAPE", f"returns {tuple(got.shape)}, expected {tuple(spec['shape'])}")
        dtype = str(got.dtype).removeprefix("torch.")
        if dtype != spec["dtype"]:
            raise Refused("DTYPE", f"returns {dtype}, expected {spec['dtype']}")
        if self.arrays == "torch":
            if got.layout != self.torch.strided:
                raise Refused("TYPE", f"returns a {got.layout} tensor, expected a dense one")
            if got.device.type != self.device.partition(":")[0]:
                raise Refused("DEVICE", f"returns it on {got.device}, expected {self.device}")

    def shared(self, results: Any) -> str:
        """Which memory a result shares that it must not share, in words, or nothing."""
        for got in results:
            for number, given in enumerate(self.args, 1):
                if hasattr(given, "shape") and overlap(span(got), span(given)):
                    return f"argument {number}; the result must be new memory"
            if any(overlap(span(got), span(held)) for held in self.held):
                return "an earlier result, which may be in use"
        return ""

    def serve(self) -> None:
        """Answer commands until the parent closes the pipe."""
        gc.collect()
        gc.freeze()
        gc.disable()
        while line := read_line(self.commands):
            try:
                if line == b"G":
                    answer = self.go()
                    if type(self) is not Worker:
                        raise Refused("TAMPERED", "replaces the harness's own object")
                else:
                    order = json.loads(line)
                    answer = getattr(self, order.pop("do"))(**order)
            except Refused as refused:
                answer = {"refused": refused.code, "text": refused.text}
            except BaseException as error:  # our own mistake, or what a kernel broke
                answer = {"refused": "BROKEN", "text": first_line(error)}
            os.write(self.replies, json.dumps(answer).encode() + b"\n")


def limit_threads(torch: Any, threads: int) -> None:
    """Give every library as many threads as the user asked for."""
    for name in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    with contextlib.suppress(ImportError):  # for libraries that are loaded already
        import threadpoolctl

        threadpoolctl.threadpool_limits(threads)


def read_line(fd: int) -> bytes:
    """The next command. The parent sends none before the last one has been answered."""
    data = b""
    while not data.endswith(b"\n"):
        more = os.read(fd, 1 << 20)
        if not more:
            return b""
        data += more
    return data[:-1]
