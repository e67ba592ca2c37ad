"""The other side of the fence: the process that a candidate kernel is loaded into.

Run by `nursery.py` as a program, never imported. First it is a *nursery*: it imports NumPy and
torch once and forks a child for every kernel, so that a kernel that dies takes nothing with it and
the next one starts at once. A child loads the kernel, is told where in shared memory the arguments
of a case lie, and then answers "go": it calls the kernel, says so, and copies what came back into
shared memory, where the parent looks at it.

Nothing in here judges. Truth, seeds, contents, clocks and verdict are the parent's; all that this
process can say about itself is what the parent cannot see from outside - of which class a result
is, and whether it shares memory with an argument. A kernel that lies about that still has to lay
the right numbers down, in time.

Nothing of ours can be imported by a kernel (`Fence`): not by way of the path either, where ours may
lie beside NumPy. Where the parent asks for our own functions, they come from the parent's folder.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import gc
import importlib
import inspect
import json
import mmap
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from .compilers import compiled, prepare, watch_interpreter
from .guard import (
    INTEGERS,
    OURS,
    POISON,
    Fence,
    Refused,
    changed,
    first_line,
    forget_ours,
    load,
    overlap,
    snapshot,
    span,
)


class Child:
    """One kernel and its shared memory. Commands are lines of JSON; "G" is go."""

    def __init__(self, commands: int, replies: int, memory: int, size: int) -> None:
        self.commands, self.replies = commands, replies
        self.arena = mmap.mmap(memory, size)
        self.functions: dict[str, tuple[Callable[..., Any], str]] = {}
        self.device = "cpu"
        self.takes_out = False
        self.held: list[Any] = []  # the last results: the next may not be their memory
        self.hold = 0
        self.spare: list[Any] = []
        self.fence = Fence(os.sep)
        self.before: list[tuple[Any, str, Any]] = []
        self.triton: dict[str, bool] = {}

    # --- commands -----------------------------------------------------------------------------

    def load(self, order: dict[str, Any]) -> dict[str, Any]:
        import numpy as np
        import torch

        limit_threads(torch, order["threads"])
        torch.set_grad_enabled(False)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.np, self.torch, self.device = np, torch, order["device"]
        prepare(self.device)
        self.fence = Fence(order["root"])
        sys.meta_path.insert(0, self.fence)
        if order.get("path") and not order.get("ours"):
            self.perturb({"on": True})
        if order.get("path"):
            self.before = snapshot()
            self.slot = order["slot"]
            function, arrays, self.takes_out = load(order["path"], order["slot"])
            self.functions = {"": (function, arrays)}
        if order.get("ours"):  # [module, function that gives the table of functions, arguments]
            self.fence.lower()
            module, maker, arguments = order["ours"]
            made = getattr(importlib.import_module(module), maker)
            candidate = (function, arrays, self.takes_out) if order.get("path") else None
            self.functions = made(candidate, *arguments)
            self.takes_out = False
        arrays = next(iter(self.functions.values()))[1]
        self.triton = watch_interpreter()
        return {
            "arrays": arrays,
            "out": self.takes_out,
            "triton": bool(self.triton),
            "names": list(self.functions),
        }

    def case(self, order: dict[str, Any]) -> dict[str, Any]:
        """Lay the arguments of a case over the shared memory, for one of the functions."""
        function, arrays = self.functions[order.get("function", "")]
        self.arrays, self.outs = arrays, order["outs"]
        self.hosts: list[tuple[Any, Any]] = []
        self.args = [self.place(spec) for spec in order["args"]]
        self.kwargs = {name: self.place(spec) for name, spec in order["kwargs"].items()}
        self.targets = [self.host(spec) for spec in self.outs]
        self.single = order["single"]
        self.function = function
        self.held, self.hold = [], order["hold"] * len(self.outs)
        if order.get("bind"):
            try:
                bound = [*self.args], {**self.kwargs, **({"out": 0} if self.takes_out else {})}
                inspect.signature(function).bind(*bound[0], **bound[1])
            except TypeError as error:
                raise Refused("SIGNATURE", f"{error}; the slot is {order['bind']}") from None
            except ValueError:
                pass  # compiled code does not say
        return {"compiled": compiled()}

    def interpreted(self, _order: dict[str, Any]) -> dict[str, Any]:
        """Whether Triton's interpreter has run any of the kernel's functions."""
        return {"ran": any(self.triton.values())}

    def perturb(self, order: dict[str, Any]) -> dict[str, Any]:
        """Have new memory filled with a mark (FRESH), or not, which costs no time."""
        with contextlib.suppress(AttributeError, OSError):  # of glibc alone
            ctypes.CDLL(None).mallopt(-6, 0x80 if order["on"] else 0)  # M_PERTURB
        return {}

    def inspect(self, _order: dict[str, Any]) -> dict[str, Any]:
        ours = [n for n in sys.modules if n.split(".")[0] in OURS]
        ours = [
            n
            for n in ours
            if (getattr(sys.modules[n], "__file__", "") or "").startswith(self.fence.root)
        ]
        # Also what hides one of our methods in this object alone, or takes the fence away.
        tampered = changed(self.before) + sorted(set(vars(self)) & set(dir(Child)))
        if self.fence not in sys.meta_path:
            tampered.append("sys.meta_path")
        return {
            "tampered": tampered,
            "ours": sorted({*self.fence.asked, *ours}),
            "threads": [t.name for t in threading.enumerate() if t is not threading.main_thread()],
        }

    # --- memory -------------------------------------------------------------------------------

    def host(self, spec: dict[str, Any]) -> Any:
        """All the memory under an argument, as a flat torch tensor on the arena."""
        integer = self.np.frombuffer(
            self.arena, INTEGERS[spec["dtype"]].replace("u", ""), spec["span"], spec["offset"]
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
        dtype = getattr(self.torch, spec["dtype"])
        integer = getattr(self.torch, INTEGERS[spec["dtype"]].replace("u", ""))
        tensor = self.torch.empty(spec["shape"], dtype=dtype, device=self.device)
        tensor.view(integer).fill_(POISON[spec["dtype"]])
        return tensor.numpy() if self.arrays == "numpy" else tensor

    def prepare(self) -> dict[str, Any]:
        """Before a call: poison in `out`, and in freed memory for the next `empty` to find."""
        given = [self.poisoned(spec) for spec in self.outs] if self.takes_out else []
        self.given = given[0] if given and self.single else given
        self.spare = [self.poisoned(spec) for spec in self.outs]
        self.spare.clear()
        return {}

    def to_device(self) -> dict[str, Any]:
        """New contents for a GPU's buffers, and nothing of them left in its cache."""
        for device, flat in self.hosts:
            device.copy_(flat)
        size = getattr(self.torch.cuda.get_device_properties(0), "L2_cache_size", 1 << 26)
        self.torch.empty(2 * size, dtype=self.torch.uint8, device=self.device).zero_()
        self.torch.cuda.synchronize()
        return {}

    # --- one call -----------------------------------------------------------------------------

    def go(self) -> dict[str, Any]:
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
        """What came back, into the parent's memory - if it is what a result has to be."""
        if not self.outs:  # the empty call, which is timed to know what a call costs
            return {}
        if self.takes_out and result is None:
            result = self.given
        results = [result] if self.single else result
        if not self.single and type(results) not in (tuple, list):
            return refusal("TYPE", f"returns {type(result).__name__}, expected a tuple")
        if len(results) != len(self.outs):
            return refusal("SHAPE", f"returns {len(results)} arrays, expected {len(self.outs)}")
        right = self.torch.Tensor if self.arrays == "torch" else self.np.ndarray
        for got, spec in zip(results, self.outs, strict=True):
            if type(got) is not right:
                kind = f"{type(got).__module__}.{type(got).__name__}"
                return refusal(
                    "TYPE",
                    f"returns {kind}, expected {right.__module__}."
                    f"{right.__name__} itself: nothing lazy, no subclass",
                )
            if list(got.shape) != spec["shape"]:
                return refusal(
                    "SHAPE", f"returns {tuple(got.shape)}, expected {tuple(spec['shape'])}"
                )
            dtype = str(got.dtype).removeprefix("torch.")
            if dtype != spec["dtype"]:
                return refusal("DTYPE", f"returns {dtype}, expected {spec['dtype']}")
            if isinstance(got, self.torch.Tensor):
                if got.layout != self.torch.strided:
                    return refusal("TYPE", f"returns a {got.layout} tensor, expected a dense one")
                if got.device.type != self.torch.device(self.device).type:
                    return refusal("DEVICE", f"returns it on {got.device}, expected {self.device}")
        shared = self.shared(results)
        if shared:
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

    def shared(self, results: Any) -> str:
        """What a result shares memory with that it must not share, in words, or nothing."""
        named = [*enumerate(self.args, 1), *self.kwargs.items()]
        for got in results:
            for name, given in named:
                if hasattr(given, "shape") and overlap(span(got), span(given)):
                    return f"returns the memory of argument {name}; the result must be new memory"
            if any(overlap(span(got), span(held)) for held in self.held):
                return "returns the memory of an earlier result, which may be in use"
        return ""

    def serve(self) -> None:
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
                    if type(self) is not Child:
                        answer = refusal("TAMPERED", "replaces the harness's own object")
                elif line == b"L":
                    answer = self.to_device()
                elif line == b"P":
                    answer = self.prepare()
                else:
                    order = json.loads(line)
                    answer = getattr(self, order["do"])(order)
            except Refused as refused:
                answer = refusal(refused.code, refused.text)
            except BaseException as error:  # of ours, or what a kernel broke
                answer = refusal("BROKEN", first_line(error))
            os.write(self.replies, json.dumps(answer).encode() + b"\n")


def limit_threads(torch: Any, threads: int) -> None:
    """Everybody gets as many threads as the user asked for, whichever library they come from."""
    for name in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    try:  # libraries that are loaded already
        import threadpoolctl
    except ImportError:
        return
    threadpoolctl.threadpool_limits(threads)


def refusal(code: str, text: str) -> dict[str, Any]:
    return {"refused": code, "text": text}


def read_line(fd: int) -> bytes:
    """The next command: the parent sends no second one before the first is answered."""
    data = b""
    while not data.endswith(b"\n"):
        more = os.read(fd, 1 << 20)
        if not more:
            return b""
        data += more
    return data[:-1]


def nursery(link: socket.socket) -> None:
    """Fork a child for every set of descriptors that comes in; say how a child has ended."""
    # Our package was needed to get here. A kernel that imports it gets no copy, but asks the fence.
    forget_ours()
    if sys.platform.startswith("linux"):
        # What a kernel leaves behind becomes a child of this process, so that it can be found.
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    import numpy  # noqa: F401  # so that the children have it
    import torch  # noqa: F401  # as above

    link.sendall(b"ready\n")
    while True:
        fds = array.array("i")
        data, ancillary, _, _ = link.recvmsg(4096, socket.CMSG_SPACE(3 * fds.itemsize))
        if not data:
            return
        for _, _, payload in ancillary:
            fds.frombytes(payload)
        order = json.loads(data)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            link.sendall(json.dumps(os.waitstatus_to_exitcode(status)).encode() + b"\n")
            continue
        pid = os.fork()
        if pid == 0:
            link.close()
            os.setsid()  # what it starts can be found, and ended with it
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if not order["prints"]:
                null = os.open(os.devnull, os.O_RDWR)
                for fd in (0, 1, 2):
                    os.dup2(null, fd)
            else:
                os.dup2(2, 1)
            try:
                Child(fds[0], fds[1], fds[2], order["size"]).serve()
            finally:
                os._exit(0)
        for fd in fds:
            os.close(fd)
        link.sendall(json.dumps(pid).encode() + b"\n")


if __name__ == "__main__":
    with contextlib.suppress(ConnectionError):  # nobody is there any more to want a child
        nursery(socket.socket(fileno=int(sys.argv[1])))
