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
from .memory import INTEGERS, POISON, overlap, span


class Worker:
    """One kernel and its shared memory. Commands are lines of JSON, or one letter: "G" is go."""

    def __init__(self, fds: list[int], size: int, own: list[Any]) -> None:
        """fds: commands in, replies out, shared memory of `size` bytes; own: modules to watch."""
        self.commands, self.replies, memory = fds
        self.arena = mmap.mmap(memory, size)
        self.own = [*own, Worker, ImportGuard]
        self.functions: dict[str, tuple[Callable[..., Any], str]] = {}
        self.device = "cpu"
        self.takes_out = False
        self.held: list[Any] = []  # the last results: the next may not be their memory
        self.hold = 0
        self.spare: list[Any] = []
        self.guard = ImportGuard(os.sep)
        self.before: Watched = []
        self.triton: dict[str, bool] = {}

    # --- commands -----------------------------------------------------------------------------

    def load(self, order: dict[str, Any]) -> dict[str, Any]:
        """Load the kernel's file, or our own functions, or both; says what was found."""
        import numpy as np
        import torch

        limit_threads(torch, order["threads"])
        torch.set_grad_enabled(False)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.np, self.torch, self.device = np, torch, order["device"]
        set_environment(self.device)
        self.guard = ImportGuard(order["root"])
        sys.meta_path.insert(0, self.guard)
        candidate = None
        if order.get("path"):
            if not order.get("ours"):
                self.perturb({"on": True})
            self.before = snapshot(self.own)
            candidate = load(order["path"], order["slot"])
            function, arrays, self.takes_out = candidate
            self.functions = {"": (function, arrays)}
        if order.get("ours"):  # [module, function that returns the functions, its arguments]
            self.guard.lower()
            module, maker, arguments = order["ours"]
            self.functions = getattr(importlib.import_module(module), maker)(candidate, *arguments)
            self.takes_out = False
        self.triton = watch_interpreter()
        return {
            "arrays": next(iter(self.functions.values()))[1],
            "triton": bool(self.triton),
        }

    def case(self, order: dict[str, Any]) -> dict[str, Any]:
        """Find the arguments of a case in the shared memory, for one of the functions."""
        self.function, self.arrays = self.functions[order["function"]]
        self.outs = order["outs"]
        self.hosts: list[tuple[Any, Any]] = []
        self.args = [self.place(spec) for spec in order["args"]]
        self.kwargs = {name: self.place(spec) for name, spec in order["kwargs"].items()}
        self.targets = [self.host(spec) for spec in self.outs]
        self.single = len(self.outs) == 1
        self.held, self.hold = [], order["hold"] * len(self.outs)
        if order["bind"]:
            try:
                named = {**self.kwargs, **({"out": 0} if self.takes_out else {})}
                inspect.signature(self.function).bind(*self.args, **named)
            except TypeError as error:
                raise Refused("SIGNATURE", f"{error}; the slot is {order['bind']}") from None
            except ValueError:
                pass  # compiled code has no signature
        return {"compiled": compiled()}

    def interpreted(self, _order: dict[str, Any]) -> dict[str, Any]:
        """Whether Triton's interpreter has run any of the kernel's functions."""
        return {"ran": any(self.triton.values())}

    def perturb(self, order: dict[str, Any]) -> dict[str, Any]:
        """Have new memory filled with a mark (FRESH), or not, which costs no time."""
        with contextlib.suppress(AttributeError, OSError):  # glibc only
            ctypes.CDLL(None).mallopt(-6, 0x80 if order["on"] else 0)  # M_PERTURB
        return {}

    def inspect(self, _order: dict[str, Any]) -> dict[str, Any]:
        """What the kernel has replaced, and which of our modules it has imported."""
        # Also what hides one of our methods in this object alone, or removes the guard.
        tampered = changed(self.before) + sorted(set(vars(self)) & set(dir(Worker)))
        if self.guard not in sys.meta_path:
            tampered.append("sys.meta_path")
        return {"tampered": tampered, "ours": self.guard.imports()}

    # --- memory -------------------------------------------------------------------------------

    def host(self, spec: dict[str, Any]) -> Any:
        """All the memory under an argument, as a flat torch tensor on the arena."""
        integer = self.np.frombuffer(
            self.arena, INTEGERS[spec["dtype"]], spec["span"], spec["offset"]
        )
        return self.torch.from_numpy(integer).view(getattr(self.torch, spec["dtype"]))

    def place(self, spec: dict[str, Any]) -> Any:
        """An argument: a number as it is; an array at its place in the arena, or on the device."""
        if "value" in spec:
            return spec["value"]
        flat = self.host(spec)
        if self.device != "cpu":
            device = flat.to(self.device)
            self.hosts.append((device, flat))
            flat = device
        tensor = flat.as_strided(spec["shape"], spec["strides"])
        if self.arrays == "torch":
            return tensor
        out = tensor.numpy()
        out.flags.writeable = False
        return out

    def poisoned(self, spec: dict[str, Any]) -> Any:
        """New memory in the form of a result, with the mark of what has not been written."""
        dtype = getattr(self.torch, spec["dtype"])
        integer = getattr(self.torch, INTEGERS[spec["dtype"]])
        tensor = self.torch.empty(spec["shape"], dtype=dtype, device=self.device)
        tensor.view(integer).fill_(POISON[spec["dtype"]])
        return tensor.numpy() if self.arrays == "numpy" else tensor

    def poison(self) -> dict[str, Any]:
        """Put poison into `out`, and into freed memory, where the next `empty` finds it."""
        given = [self.poisoned(spec) for spec in self.outs] if self.takes_out else []
        self.given = given[0] if given and self.single else given
        self.spare = [self.poisoned(spec) for spec in self.outs]
        self.spare.clear()
        return {}

    def to_device(self) -> dict[str, Any]:
        """Copy new contents into a GPU's buffers, and clear them from its cache."""
        for device, flat in self.hosts:
            device.copy_(flat)
        size = getattr(self.torch.cuda.get_device_properties(0), "L2_cache_size", 1 << 26)
        self.torch.empty(2 * size, dtype=self.torch.uint8, device=self.device).zero_()
        self.torch.cuda.synchronize()
        return {}

    # --- one call -----------------------------------------------------------------------------

    def go(self) -> dict[str, Any]:
        """Call the kernel, say when it has returned, and copy its result out."""
        kwargs = {**self.kwargs, "out": self.given} if self.takes_out else self.kwargs
        event_ms = None
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
                event_ms = start.elapsed_time(end)
        except BaseException as error:
            self.returned()
            code = "EXIT" if isinstance(error, SystemExit) else "RAISED"
            if isinstance(error, ValueError) and "read-only" in str(error):
                code = "MUTATED"
            return {"refused": code, "text": first_line(error)}
        self.returned()
        answer = self.copy_out(result)
        if event_ms is not None:
            answer["event_ms"] = event_ms
        return answer

    def returned(self) -> None:
        """Say so, and sleep until the parent has seen that nothing works on."""
        os.write(self.replies, b"r\n")
        read_line(self.commands)

    def copy_out(self, result: Any) -> dict[str, Any]:
        """Copy a result into the parent's memory, if it has the form that a result must have."""
        if not self.outs:  # the empty call, which is timed to know what a call costs
            return {}
        if self.takes_out and result is None:
            result = self.given
        results = [result] if self.single else result
        if not self.single and type(results) not in (tuple, list):
            return refusal("TYPE", f"returns {type(result).__name__}, expected a tuple")
        if len(results) != len(self.outs):
            return refusal("SHAPE", f"returns {len(results)} arrays, expected {len(self.outs)}")
        for got, spec in zip(results, self.outs, strict=True):
            if fault := self.fault(got, spec):
                return refusal(*fault)
        if shared := self.shared(results):
            return refusal("ALIAS", shared)
        for got, target, spec in zip(results, self.targets, self.outs, strict=True):
            if self.arrays == "numpy":
                self.np.copyto(target.view(spec["shape"]).numpy(), got)
            else:
                target.view(spec["shape"]).copy_(got)
        # A kernel that fills `out` returns what it was given, which is new every time.
        self.held = [*results, *self.held[: self.hold]]
        dense = all(
            r.flags.c_contiguous if self.arrays == "numpy" else r.is_contiguous() for r in results
        )
        return {"dense": dense}

    def fault(self, got: Any, spec: dict[str, Any]) -> tuple[str, str] | None:
        """What is wrong with the form of a result: a code and a sentence, or None."""
        right: Any = self.torch.Tensor if self.arrays == "torch" else self.np.ndarray
        if type(got) is not right:
            kind = f"{type(got).__module__}.{type(got).__name__}"
            wanted = f"{right.__module__}.{right.__name__}"
            return "TYPE", f"returns {kind}, expected {wanted} itself: nothing lazy, no subclass"
        if list(got.shape) != spec["shape"]:
            return "SHAPE", f"returns {tuple(got.shape)}, expected {tuple(spec['shape'])}"
        dtype = str(got.dtype).removeprefix("torch.")
        if dtype != spec["dtype"]:
            return "DTYPE", f"returns {dtype}, expected {spec['dtype']}"
        if self.arrays == "torch":
            if got.layout != self.torch.strided:
                return "TYPE", f"returns a {got.layout} tensor, expected a dense one"
            if got.device.type != self.device.partition(":")[0]:
                return "DEVICE", f"returns it on {got.device}, expected {self.device}"
        return None

    def shared(self, results: Any) -> str:
        """Which memory a result shares that it must not share, in words, or nothing."""
        named = [*enumerate(self.args, 1), *self.kwargs.items()]
        for got in results:
            for name, given in named:
                if hasattr(given, "shape") and overlap(span(got), span(given)):
                    return f"returns the memory of argument {name}; the result must be new memory"
            if any(overlap(span(got), span(held)) for held in self.held):
                return "returns the memory of an earlier result, which may be in use"
        return ""

    def serve(self) -> None:
        """Answer commands until the parent closes the pipe."""
        gc.collect()
        gc.freeze()
        gc.disable()
        while True:
            line = read_line(self.commands)
            if not line:
                return
            try:
                if line == b"G":
                    answer = self.go()
                    if type(self) is not Worker:
                        answer = refusal("TAMPERED", "replaces the harness's own object")
                elif line == b"L":
                    answer = self.to_device()
                elif line == b"P":
                    answer = self.poison()
                else:
                    order = json.loads(line)
                    answer = getattr(self, order["do"])(order)
            except Refused as refused:
                answer = refusal(refused.code, refused.text)
            except BaseException as error:  # our own mistake, or what a kernel broke
                answer = refusal("BROKEN", first_line(error))
            os.write(self.replies, json.dumps(answer).encode() + b"\n")


def limit_threads(torch: Any, threads: int) -> None:
    """Give every library as many threads as the user asked for."""
    for name in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    try:  # for libraries that are loaded already
        import threadpoolctl
    except ImportError:
        return
    threadpoolctl.threadpool_limits(threads)


def refusal(code: str, text: str) -> dict[str, Any]:
    return {"refused": code, "text": text}


def read_line(fd: int) -> bytes:
    """The next command. The parent sends none before the last one has been answered."""
    data = b""
    while not data.endswith(b"\n"):
        more = os.read(fd, 1 << 20)
        if not more:
            return b""
        data += more
    return data[:-1]
