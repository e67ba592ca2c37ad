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
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from ..reasons import Refused
from .compilers import may_compile, set_environment, watch_interpreter
from .device import opened
from .loading import Candidate, check_call, first_line, load, raised
from .memory import at, mapped, poisoned, span
from .preparation import Preparation
from .results import Results
from .switches import Switches, limit_threads
from .watched import ImportGuard, Lookout, Watch

Told = dict[str, Any]  # what goes from one process to the other, as JSON


class Worker:
    """One kernel and its shared memory. A command is "G", which is go, or a method in JSON."""

    def __init__(self, fds: list[int], size: int, own: list[Any]) -> None:
        """fds: shared memory of `size` bytes, commands in, replies out; own: modules to watch."""
        import torch

        memory, self.commands, self.replies = fds
        self.arena = mapped(torch, memory, size)
        os.close(memory)
        # The last byte tells the parent that all calls of an order to a device are launched.
        self.launched = ctypes.c_uint8.from_address(self.arena.data_ptr() + size - 1)
        self.own = [*own, Worker, ImportGuard, Preparation, Refused, Results]
        self.functions: dict[str, tuple[Callable[..., Any], str]] = {}
        self.takes_out = False
        self.preparation = Preparation()
        self.lookout: Lookout | None = None  # where there is a kernel
        self.gpu: Any = None  # a `device.Cuda`
        self.results: Any = None

    # --- commands -----------------------------------------------------------------------------

    def load(
        self,
        root: str,
        threads: int,
        device: str,
        path: str = "",
        slot: str = "",
        weights: int = 0,
        ours: Any = None,
    ) -> Told:
        """Load the kernel's file, or our own functions, or both; says what was found.

        weights: how many of the slot's arguments after the first a kernel may prepare.
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
        self.switches = Switches(torch, self.device, threads)
        self.guard = ImportGuard(root)
        sys.meta_path.insert(0, self.guard)
        candidate = self.load_kernel(path, slot, weights, alone=not ours) if path else None
        if ours:
            self.load_ours(candidate, *ours)
        self.triton = watch_interpreter()
        arrays = next(iter(self.functions.values()))[1]
        gpu = {"l2": self.gpu.l2, "free": self.gpu.free(), "bus": self.gpu.bus} if self.gpu else {}
        found = {"arrays": arrays, "triton": bool(self.triton), "gpu": gpu}
        if not candidate:
            return found
        return {**found, "prepares": bool(candidate.prepare), "shapes": candidate.shapes}

    def load_kernel(self, path: str, slot: str, weights: int, alone: bool) -> Candidate:
        """Load a kernel's file, and watch what it replaces and sets; alone: without ours."""
        if alone:
            self.perturb(True)
        if self.gpu:
            self.own += [type(self.gpu), self.gpu.library]
        self.lookout = Lookout(self.torch, self.own)
        self.lookout.names.append(Watch(self, "gpu", self.gpu, ()))
        candidate = load(path, slot, weights)
        self.switches.restore_all()
        self.functions, self.takes_out = {"": candidate[:2]}, candidate.takes_out
        self.preparation = Preparation(candidate.prepare, weights)
        return candidate

    def load_ours(
        self, candidate: Candidate | None, module: str, maker: str, arguments: list[Any]
    ) -> None:
        """Load functions of ours, with a kernel somewhere in them if there is one."""
        self.guard.lower()
        if candidate and self.lookout:
            candidate = self.lookout.among_ours(candidate, self.switches.restore)
        self.functions = getattr(importlib.import_module(module), maker)(candidate, *arguments)
        self.takes_out, self.preparation = False, Preparation()
        if self.lookout:
            self.lookout.add_ours()

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
        self.preparation.forget()
        self.buffers: list[list[tuple[int, int, int]]] = []  # on a device: there, here, bytes
        for specs in args:
            self.buffers.append([])
            self.copies.append([self.place(spec) for spec in specs])
        self.args = self.copies[0]
        taken = [
            (*span(given), f"argument {n}; the result must be new memory")
            for copy in self.copies
            for n, given in enumerate(copy, 1)
            if hasattr(given, "shape")
        ]
        targets = [[self.host(s).view(s["shape"]) for s in place] for place in outs]
        libraries = self.torch, self.np
        self.results = Results(
            libraries, self.arrays, self.gpu, self.device, self.outs, targets, taken, hold
        )
        if bind:
            self.preparation.check(self.args, bind)
            named = {**kwargs, "out": 0} if self.takes_out else kwargs
            check_call(self.function, self.preparation.placed(self.args, 0), named, bind)
        return {"compiles": may_compile()}

    def perturb(self, on: bool) -> Told:
        """Have new memory filled with a mark (FRESH), or not, which costs no time."""
        with contextlib.suppress(AttributeError, OSError):  # glibc only
            ctypes.CDLL(None).mallopt(-6, 0x80 if on else 0)  # M_PERTURB
        return {}

    def prepare(self) -> Told:
        """Have the kernel prepare the weights of each copy; the last ones are forgotten."""
        self.calls = []
        self.copy_in(slice(1, None))
        self.preparation.run(self.copies)
        if self.gpu:
            self.gpu.wait()
        return {}

    def poison(self) -> Told:
        """Put poison into `out`, and into freed memory, where the next `empty` finds it."""
        self.switches.restore_all()
        self.calls = []
        for copy, args in enumerate(self.copies):
            kwargs = self.kwargs
            if self.takes_out:
                outs = [self.poisoned(spec) for spec in self.outs]
                kwargs = {**kwargs, "out": outs[0] if len(outs) == 1 else outs}
            self.calls.append((self.preparation.placed(args, copy), kwargs))
        spare = [self.poisoned(spec) for _ in self.copies for spec in self.outs]
        spare.clear()
        return {}

    def to_device(self) -> Told:
        """Copy new contents into a GPU's buffers, and clear them from its cache."""
        self.copy_in(slice(1 if self.preparation.prepare else None))  # weights are there already
        self.gpu.clear_cache()
        return {}

    def copy_in(self, which: slice) -> None:
        """Copy some of each copy's arguments to the device, which on a CPU has none."""
        for buffers in self.buffers:
            for there, here, size in buffers[which]:
                self.gpu.copy_in(there, here, size)

    def settle(self) -> Told:
        """Wait for whatever this process has the device do; says what memory is free there."""
        self.gpu.wait()
        return {"free": self.gpu.free()}

    def inspect(self) -> Told:
        """What the kernel has replaced and set, has imported of ours, and whether Triton ran it."""
        # Also what hides one of our methods in this object alone, or removes the guard.
        tampered = self.lookout.changes() if self.lookout else []
        tampered += sorted(set(vars(self)) & set(dir(Worker)))
        if self.gpu:
            tampered += sorted(set(vars(self.gpu)) & set(dir(type(self.gpu))))
        if self.results is not None and type(self.results) is not Results:
            tampered.append("the harness's own object")
        if self.guard not in sys.meta_path:
            tampered.append("sys.meta_path")
        self.switches.restore_all()
        return {
            "tampered": tampered,
            "ours": self.guard.imports(),
            "interpreted": any(self.triton.values()),
            "switches": self.switches.seen,
        }

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
        tensor = poisoned(self.torch, spec, self.device)
        return tensor.numpy() if self.arrays == "numpy" else tensor

    # --- one call -----------------------------------------------------------------------------

    def go(self) -> Told:
        """Call the kernel, say when it has returned, and copy its result out.

        On a device every copy of the case is called, and waited for once.
        """
        if self.lookout:
            self.lookout.next_run()
        try:
            if self.gpu:
                self.gpu.start()
                results = [self.function(*args, **kwargs) for args, kwargs in self.calls]
                self.launched.value = 1
                self.gpu.stop()
            else:
                args, kwargs = self.calls[0]
                results = [self.function(*args, **kwargs)]
        except BaseException as error:
            self.returned()
            raise raised(error) from None
        answer = self.copy_out(results, self.returned())
        return answer | {"event_ms": self.gpu.elapsed_ms()} if self.gpu else answer

    def returned(self) -> list[int]:
        """Say so, and sleep until the parent has seen that nothing works on.

        Returns which copies' results it wants to see.
        """
        os.write(self.replies, b"r\n")
        return list(json.loads(read_line(self.commands)))

    def copy_out(self, results: list[Any], wanted: list[int]) -> Told:
        """Copy results into the parent's memory, and on a device their calls' arguments back."""
        if not self.outs:  # the empty call, which is timed to know what a call costs
            return {}
        given = (kwargs.get("out") for _, kwargs in self.calls)
        made = [self.results.formed(*pair) for pair in zip(results, given, strict=True)]
        answer = self.results.copy_out(made, wanted)
        for n in wanted[: len(self.results.targets)]:
            for there, here, size in self.buffers[n]:
                self.gpu.copy_out(here, there, size)  # are they what they were?
        return answer

    def again(self, back: int) -> Told:
        """Copy the results of a call out once more: of the last one, or of one so far back."""
        self.results.copy_again(back)
        return {}

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


def read_line(fd: int) -> bytes:
    """The next command. The parent sends none before the last one has been answered."""
    data = b""
    while not data.endswith(b"\n"):
        more = os.read(fd, 1 << 20)
        if not more:
            return b""
        data += more
    return data[:-1]
