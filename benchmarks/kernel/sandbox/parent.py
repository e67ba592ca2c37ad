"""Our side of a worker: lays cases out in the memory that both see, and holds the clock.

Before each call it writes new contents and poisons the place of the result; then it says go, and
takes the time until the worker says that it has returned.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..reasons import Refused
from ..slots.inputs import Case, extent, flat
from ..worker.memory import POISON, at
from .process import Process
from .processes import processor_time

ALIGN = 4096  # every argument starts on a page of its own
COMPILE_LIMIT = 300.0  # seconds of a call in which a compiler may be at work
MOST_CHECKED = 8  # of the copies' results: a third of them, and no more


class Call(NamedTuple):
    """One call, as the parent saw it; times in seconds.

    Where one order calls several copies of a case, a time is that of all divided by their number.
    """

    time: float  # from "go" to "I have returned"
    lag: float  # from there until its main thread sleeps; NaN, like the next two, if unknown
    copying: float  # processor time of copying the result into shared memory
    dense: bool  # the result was contiguous, which makes it quick to copy
    working: float  # processor time from "go" until it slept
    event: float | None  # by the GPU's own events, of its default stream


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def as_integers(tensor: Tensor) -> Tensor:
    """The bits of a tensor, as integers of the same size."""
    integer: torch.dtype = getattr(torch, f"int{8 * tensor.element_size()}")
    return tensor.view(integer)


class Sandbox(Process):
    """A worker with a candidate in it, or with our own functions. Use it in a `with`."""

    look = True  # whether the next call's results are wanted: the worker is not told
    compiles = False  # whether a compiler may be at work in it
    to_compile = False  # and in the next call
    weights: Sequence[Tensor] = ()  # those that are prepared now
    proved: list[Case]  # with the weights that it has been given, and no more

    def __init__(self, *args: Any, **options: Any) -> None:
        self.proved = []
        super().__init__(*args, **options)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def case(
        self,
        case: Case,
        outs: list[Tensor],
        function: str = "",
        bind: str = "",
        hold: int = 0,
        copies: int = 1,
    ) -> None:
        """Lay out arguments like these, and results like these outs, which are contiguous.

        bind: the signature to try first; hold: how many results before the last one stay in use;
        copies: how often, at other addresses; a device calls all of them in one order.
        """
        self.weights = ()
        self.preparing: list[float] = []  # seconds of each `prepare`
        self.used = 0  # bytes of the arena
        self.given: list[list[Tensor]] = [[] for _ in range(copies)]  # flat, the tensors of each
        args = [
            [self.place(a, given) if isinstance(a, Tensor) else {"value": a} for a in case.args]
            for given in self.given
        ]
        self.outs: list[list[dict[str, Any]]] = []
        self.results: list[list[Tensor]] = []  # of as many copies as are checked at a time
        for _ in range(min(MOST_CHECKED, math.ceil(copies / 3))):
            new: list[Tensor] = []
            self.outs.append([self.place(out, new) for out in outs])
            self.results.append([to.view(out.shape) for to, out in zip(new, outs, strict=True)])
        self.laid: dict[str, Any] = {
            "args": args,
            "kwargs": case.kwargs,
            "outs": self.outs,
            "function": function,
            "bind": bind,
            "hold": hold,
        }
        # For new shapes torch.compile, numba, JAX and others compile in the first call.
        self.to_compile = self.compiles = self.ask("case", **self.laid)["compiles"]

    def use(self, function: str) -> None:
        """The same case for another of the functions that this worker has."""
        if function != self.laid["function"]:
            outs = [[]] if function == "nothing" else self.outs
            self.laid = {**self.laid, "function": function, "outs": outs, "bind": ""}
            self.ask("case", **self.laid)

    def place(self, tensor: Tensor, places: list[Tensor]) -> dict[str, Any]:
        """Make room for a tensor in the shared memory, flat; what the worker is told of it."""
        count, start = extent(tensor), self.used
        self.used += -(-count * tensor.element_size() // ALIGN) * ALIGN
        places.append(at(self.arena, tensor.dtype, count, start))
        return {
            "dtype": name_of(tensor.dtype),
            "shape": list(tensor.shape),
            "strides": list(tensor.stride()),
            "span": count,
            "offset": start,
        }

    def write(self, *contents: Case) -> None:
        """New contents for each copy at the old addresses, and poison where results go.

        A kernel with a `prepare` is given the weights first: it must not see the rest by then.
        """
        to_write = slice(1 if self.prepares else None)
        if self.prepares:
            self.prepare(contents)
        self.ask("poison")
        for given, content in zip(self.given, contents, strict=True):
            for place, tensor in zip(given[to_write], content.tensors()[to_write], strict=True):
                place.copy_(flat(tensor))
        self.wipe()
        if self.device != "cpu":
            self.ask("to_device")

    def wipe(self) -> None:
        """Put poison where results go: no answer may lie there to be read by another kernel."""
        for results in self.results:
            for result in results:
                as_integers(result).fill_(POISON[name_of(result.dtype)])

    def prepare(self, contents: Sequence[Case]) -> None:
        """Write the weights and have them prepared, unless they are those that are prepared now.

        Notes the seconds that it takes for one copy. Raises Refused.
        """
        weights = [tensor for content in contents for tensor in content.tensors()[1:]]
        if len(weights) == len(self.weights) and all(map(is_, weights, self.weights)):
            return
        for given, content in zip(self.given, contents, strict=True):
            for place, tensor in zip(given[1:], content.tensors()[1:], strict=True):
                place.copy_(flat(tensor))
        start = time.perf_counter()
        try:
            self.ask("prepare", max(self.limit, COMPILE_LIMIT) if self.to_compile else None)
        except Refused as refused:
            raise Refused(refused.code, f"prepare {refused.text}") from None
        self.preparing.append((time.perf_counter() - start) / len(contents))
        self.weights = weights

    @property
    def prepares(self) -> bool:
        """Whether the kernel has a `prepare`."""
        return bool(self.loaded.get("prepares"))

    def check_untouched(self, content: Case, copy: int = 0) -> None:
        """Refuse a kernel if the arguments do not hold, to the bit, what was written.

        A device's are copied back when `call` is to look at this copy.
        """
        for place, tensor in zip(self.given[copy], content.tensors(), strict=True):
            if not torch.equal(as_integers(place), as_integers(flat(tensor))):
                raise Refused("MUTATED", "changes what it is given")

    def settle(self) -> tuple[float, int]:
        """Seconds until its device has no more work, and bytes that are free there."""
        start = time.perf_counter()
        free = self.ask("settle")["free"]
        return time.perf_counter() - start, free

    def call(self, look_at: Sequence[int] = (0,)) -> Call:
        """One call with what has been written. Raises Refused if it does not end well.

        look_at: copies whose results, then in `self.seen`, and arguments to copy back.
        """
        self.check_quiet("G")
        self.arena[-1] = 0
        began, worked = time.perf_counter(), processor_time(self.pid)
        start = time.perf_counter_ns()
        self.send(b"G")
        if self.to_compile:
            began = self.compiled(began)
        first = self.line(began, self.limit)
        returned = time.perf_counter_ns()
        if first != b"r":
            raise self.forged()
        lag = self.asleep()
        done = processor_time(self.pid)
        self.send(json.dumps(list(look_at)).encode())
        answer = self.receive(began, self.limit)
        results = dict(zip(look_at, self.results, strict=False)) if self.look else {}
        self.seen = {n: [result.clone() for result in made] for n, made in results.items()}
        self.rest()
        self.wipe()
        event, copies = answer.get("event_ms"), len(self.given)
        return Call(
            (returned - start) / 1e9 / copies,
            lag,
            self.idle_from - done,
            bool(answer.get("dense")),
            (done - worked) / copies,
            event / 1e3 / copies if event is not None else None,
        )

    def compiled(self, start: float) -> float:
        """Wait for a call that may compile, while it does; the time when it had done so.

        A device's work may hang when all of it has been launched, which the worker marks: then
        nothing compiles any more. Raises Refused after COMPILE_LIMIT.
        """
        self.to_compile = False
        while not self.poll.poll(100) and not self.arena[-1]:
            if time.perf_counter() - start > max(self.limit, COMPILE_LIMIT):
                self.line(start, max(self.limit, COMPILE_LIMIT))
        return time.perf_counter()

    @property
    def copied(self) -> list[Tensor]:
        """The results of the first copy; on a CPU it is the only one."""
        return self.seen[0]
