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
import mmap
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from ..reasons import Refused
from .compilers import may_compile, set_environment, watch_interpreter
from .device import opened
from .forms import check_form, check_tensor
from .loading import check_call, first_line, load, raised
from .memory import poisoned, shared, shared_mapping, span
from .preparation import Preparation
from .switches import Switches, limit_threads
from .watched import ImportGuard, Lookout, Watch

Told = dict[str, Any]  # what goes from one process to the other, as JSON


class Worker:
    """One kernel and its shared memory. A command is "G", which is go, or a method in JSON."""

    def __init__(self, fds: list[int], size: int, own: list[Any]) -> None:
        """fds: commands in, replies out, shared memory of `size` bytes; own: modules to watch."""
        self.commands, self.replies, memory = fds
        self.arena = mmap.mmap(memory, size)
        self.own = [*own, Worker, ImportGuard, Preparation, Refused]
        self.functions: dict[str, tuple[Callable[..., Any], str]] = {}
        self.takes_out = False
        self.preparation = Preparation()
        self.lookout: Lookout | None = None  # where there is a kernel
        self.gpu: Any = None  # a `device.Cuda`
        self.stopped: list[int] = []  # an entry for each time that it was told to go on
        signal.signal(signal.SIGCONT, lambda number, _frame: self.stopped.append(number))

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
        candidate = None
        if path:
            if not ours:
                self.perturb(True)
            if self.gpu:
                self.own += [type(self.gpu), self.gpu.library]
            self.lookout = lookout = Lookout(torch, self.own)
            lookout.names.append(Watch(self, "gpu", self.gpu, ()))
            candidate = load(path, slot, weights)
            self.switches.restore_all()
            self.functions, self.takes_out = {"": candidate[:2]}, candidate.takes_out
            self.preparation = Preparation(candidate.prepare, weights)
        if ours:
            self.guard.lower()
            if candidate:
                candidate = lookout.among_ours(candidate, self.switches.restore)
            module, maker, arguments = ours
            self.functions = getattr(importlib.import_module(module), maker)(candidate, *arguments)
            self.takes_out, self.preparation = False, Preparation()
            if candidate:
                lookout.add_ours()
        self.triton = watch_interpreter()
        arrays = next(iter(self.functions.values()))[1]
        gpu = {"l2": self.gpu.l2, "free": self.gpu.free(), "bus": self.gpu.bus} if self.gpu else {}
        found = {"arrays": arrays, "triton": bool(self.triton), "gpu": gpu}
        if not candidate:
            return found
        return {**found, "prepares": bool(candidate.prepare), "shapes": candidate.shapes}

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
        self.taken = [
            (*span(given), f"argument {n}; the result must be new memory")
            for copy in self.copies
            for n, given in enumerate(copy, 1)
            if hasattr(given, "shape")
        ]
        self.targets = [[self.host(s).view(s["shape"]) for s in place] for place in outs]
        self.single = len(self.outs) == 1
        # The last results, which the next may not share memory with, as `copy_out` left them.
        self.held: list[tuple[list[list[Any]], list[tuple[int, int]], list[int]]] = []
        self.hold = hold
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
                kwargs = {**kwargs, "out": outs[0] if self.single else outs}
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
        if self.guard not in sys.meta_path:
            tampered.append("sys.meta_path")
        self.switches.restore_all()
        return {
            "tampered": tampered,
            "ours": self.guard.imports(),
            "interpreted": any(self.triton.values()),
            "switches": self.switches.seen,
            "stopped": len(self.stopped),
        }

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
        """Copy results into the parent's memory, if they have the form that they must have."""
        if not self.outs:  # the empty call, which is timed to know what a call costs
            return {}
        made = [self.formed(result, n) for n, result in enumerate(results)]
        new = [array for arrays in made for array in arrays]
        spans = list(map(span, new))
        # Where an earlier result was: the kernel may have given it other memory since.
        earlier = [place for _, places, _ in self.held for place in places]
        taken = self.taken + [(*e, "an earlier result, which may be in use") for e in earlier]
        if memory := shared(spans, taken):
            raise Refused("ALIAS", f"returns the memory of {memory}")
        for n, targets in zip(wanted, self.targets, strict=False):
            for got, target in zip(made[n], targets, strict=True):
                self.copy(got, target)
            for there, here, size in self.buffers[n]:
                self.gpu.copy_out(here, there, size)  # the arguments: are they what they were?
        # A kernel that fills `out` returns what it was given, which is new every time.
        self.held = [(made, spans, wanted), *self.held[: self.hold]]
        numpy = self.arrays == "numpy"
        return {"dense": all(a.flags.c_contiguous if numpy else a.is_contiguous() for a in new)}

    def again(self, back: int) -> Told:
        """Copy the results of a call out once more: of the last one, or of one so far back."""
        made, spans, wanted = self.held[back]
        if [span(array) for arrays in made for array in arrays] != spans:
            raise Refused("ALIAS", "gives a result other memory after it has returned it")
        if not self.gpu and shared_mapping(spans):
            raise Refused("ALIAS", "returns memory that it shares with other processes")
        for n, targets in zip(wanted, self.targets, strict=False):
            for got, target in zip(made[n], targets, strict=True):
                self.copy(got, target)
        return {}

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


def read_line(fd: int) -> bytes:
    """The next command. The parent sends none before the last one has been answered."""
    data = b""
    while not data.endswith(b"\n"):
        more = os.read(fd, 1 << 20)
        if not more:
            return b""
        data += more
    return data[:-1]
