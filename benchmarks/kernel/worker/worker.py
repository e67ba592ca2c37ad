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
import os
import sys
from collections.abc import Callable
from typing import Any

from ..reasons import Refused
from .compilers import compiled, set_environment, watch_interpreter
from .device import opened
from .forms import check_form, check_tensor
from .loading import first_line, load
from .memory import POISON, at, mapped, shared, span
from .watched import ImportGuard, Watched, changed, modes, snapshot

Told = dict[str, Any]  # what goes from one process to the other, as JSON


class Worker:
    """One kernel and its shared memory. A command is "G", which is go, or a method in JSON."""

    def __init__(self, fds: list[int], size: int, own: list[Any]) -> None:
        """fds: shared memory of `size` bytes, commands in, replies out; own: modules to watch."""
        import torch

        memory, self.commands, self.replies = fds
        self.arena = mapped(torch, memory, size)
        os.close(memory)
        self.own = [*own, Worker, ImportGuard, Refused]
        self.functions: dict[str, tuple[Callable[..., Any], str]] = {}
        self.takes_out = False
        self.before: Watched = []
        self.gpu: Any = None  # a `device.Cuda`

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
        self.np, self.torch = np, torch
        self.gpu = opened(torch, device)
        self.device = self.gpu.torch_name if self.gpu else "cpu"
        set_environment(self.device)
        self.guard = ImportGuard(root)
        sys.meta_path.insert(0, self.guard)
        candidate = None
        if path:
            if not ours:
                self.perturb(True)
            if self.gpu:
                self.own += [type(self.gpu), self.gpu.library]
            self.before = [*snapshot(self.own), (self, "gpu", self.gpu)]
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
        gpu = {"l2": self.gpu.l2, "free": self.gpu.free(), "bus": self.gpu.bus} if self.gpu else {}
        return {"arrays": arrays, "triton": bool(self.triton), "gpu": gpu}

    def case(
        self,
        args: list[list[Told]],
        kwargs: Told,
        outs: list[list[Told]],
        function: str,
        bind: str,
        hold: int,
    ) -> Told:
        """Find the arguments of a case in the shared memory, for one of the functions.

        args: of each copy of the case, one on a CPU; outs: places for the results of some of them.
        """
        self.function, self.arrays = self.functions[function]
        self.outs, self.kwargs = outs[0], kwargs
        self.copies: list[list[Any]] = []  # the arguments of each copy
        self.calls: list[tuple[list[Any], Told]] = []
        self.buffers: list[list[tuple[int, int, int]]] = []  # on a device: there, here, bytes
        for specs in args:
            self.buffers.append([])
            self.copies.append([self.place(spec) for spec in specs])
        self.args = self.copies[0]
        self.taken = [
            (*span(given), f"argument {number}; the result must be new memory")
            for copy in self.copies
            for number, given in enumerate(copy, 1)
            if hasattr(given, "shape")
        ]
        self.targets = [[self.host(s).view(s["shape"]) for s in place] for place in outs]
        self.single = len(self.outs) == 1
        self.held: list[Any] = []  # the last results: the next may not be their memory
        self.hold = hold * len(self.outs) * len(args)
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
        self.calls = []
        for args in self.copies:
            kwargs = self.kwargs
            if self.takes_out:
                outs = [self.poisoned(spec) for spec in self.outs]
                kwargs = {**kwargs, "out": outs[0] if self.single else outs}
            self.calls.append((args, kwargs))
        spare = [self.poisoned(spec) for _ in self.copies for spec in self.outs]
        spare.clear()
        return {}

    def to_device(self) -> Told:
        """Copy new contents into a GPU's buffers, and clear them from its cache."""
        for buffers in self.buffers:
            for there, here, size in buffers:
                self.gpu.copy_in(there, here, size)
        self.gpu.clear_cache()
        return {}

    def settle(self) -> Told:
        """Wait for whatever this process has the device do; says what memory is free there."""
        self.gpu.wait()
        return {"free": self.gpu.free()}

    def inspect(self) -> Told:
        """What the kernel has replaced, what it has imported of ours, and whether Triton ran it."""
        # Also what hides one of our methods in this object alone, or removes the guard.
        tampered = changed(self.before) + sorted(set(vars(self)) & set(dir(Worker)))
        if self.gpu:
            tampered += sorted(set(vars(self.gpu)) & set(dir(type(self.gpu))))
        tampered += modes(self.torch)
        if self.guard not in sys.meta_path:
            tampered.append("sys.meta_path")
        interpreted = any(self.triton.values())
        return {"tampered": tampered, "ours": self.guard.imports(), "interpreted": interpreted}

    # --- memory -------------------------------------------------------------------------------

    def host(self, spec: Told) -> Any:
        """All the memory under an argument, as a flat torch tensor on the arena."""
        dtype, count = getattr(self.torch, spec["dtype"]), spec["span"]
        return at(self.arena, dtype, count, spec["offset"])

    def place(self, spec: Told) -> Any:
        """An argument: a number as it is; an array at its place in the arena, or on the device."""
        if "value" in spec:
            return spec["value"]
        flat = self.host(spec)
        if self.gpu:
            here, flat = flat, self.torch.empty_like(flat, device=self.device)
            self.buffers[-1].append((flat.data_ptr(), here.data_ptr(), here.nbytes))
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
        """Call the kernel, say when it has returned, and copy its result out.

        On a device every copy of the case is called, and waited for once.
        """
        try:
            if self.gpu:
                self.gpu.start()
                results = [self.function(*args, **kwargs) for args, kwargs in self.calls]
                self.gpu.stop()
            else:
                args, kwargs = self.calls[0]
                results = [self.function(*args, **kwargs)]
        except BaseException as error:
            self.returned()
            code = "EXIT" if isinstance(error, SystemExit) else "RAISED"
            if isinstance(error, ValueError) and "read-only" in str(error):
                code = "MUTATED"
            raise Refused(code, first_line(error)) from None
        answer = self.copy_out(results, self.returned())
        return answer | {"event_ms": self.gpu.elapsed_ms()} if self.gpu else answer

    def returned(self) -> list[int]:
        """Say so, and sleep until the parent has seen that nothing works on.

        Returns which copies' results it wants to see.
        """
        os.write(self.replies, b"r\n")
        return list(json.loads(read_line(self.commands)))

    def copy_out(self, results: list[Any], wanted: list[int]) -> Told:
        """Copy results into the parent's memory, if they have the form that they must have."""
        if not self.outs:  # the empty call, which is timed to know what a call costs
            return {}
        made = [self.formed(result, n) for n, result in enumerate(results)]
        new = [array for arrays in made for array in arrays]
        taken = self.taken + [
            (*span(h), "an earlier result, which may be in use") for h in self.held
        ]
        if memory := shared([span(array) for array in new], taken):
            raise Refused("ALIAS", f"returns the memory of {memory}")
        for n, targets in zip(wanted, self.targets, strict=False):
            for got, target in zip(made[n], targets, strict=True):
                self.copy(got, target)
            for there, here, size in self.buffers[n]:
                self.gpu.copy_out(here, there, size)  # the arguments: are they what they were?
        # A kernel that fills `out` returns what it was given, which is new every time.
        self.held = [*new, *self.held[: self.hold]]
        numpy = self.arrays == "numpy"
        return {"dense": all(a.flags.c_contiguous if numpy else a.is_contiguous() for a in new)}

    def copy(self, got: Any, target: Any) -> None:
        """Copy one result to its place in the parent's memory."""
        if self.arrays == "numpy":
            self.np.copyto(target.numpy(), got)
        elif self.gpu:
            dense = got.contiguous()
            self.gpu.wait()
            self.gpu.copy_out(target.data_ptr(), dense.data_ptr(), target.nbytes)
        else:
            target.copy_(got)

    def formed(self, result: Any, number: int) -> list[Any]:
        """The arrays of a call's result. Refuses one that has not the form that it must have."""
        if self.takes_out and result is None:
            result = self.calls[number][1]["out"]
        results = [result] if self.single else result
        if type(results) not in (tuple, list):
            raise Refused("TYPE", f"returns {type(result).__name__}, expected a tuple")
        if len(results) != len(self.outs):
            raise Refused("SHAPE", f"returns {len(results)} arrays, expected {len(self.outs)}")
        for got, spec in zip(results, self.outs, strict=True):
            check_form(got, spec, self.torch.Tensor if self.arrays == "torch" else self.np.ndarray)
            if self.arrays == "torch":
                check_tensor(got, self.torch, self.device)
        return list(results)

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
