"""Slots: places for functions, which a `using` block fills in its own thread and task only.

A table is a frozen dataclass: each field is a slot, its default the function that we put there.

torch.compile cannot read a ContextVar, but it does read what a module's `__getattr__` returns. Its
guard reads it again before each call, in the caller's thread and task, and recompiles if it
changed. So a table has a name, which the guard compares, because torch.compile may take two
functions made from the same code for one. The module itself holds nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from types import MethodType, ModuleType
from typing import Any, Generic, NamedTuple, TypeVar
from weakref import WeakMethod, ref

Table = TypeVar("Table")


class InUse(NamedTuple):
    """A table, and a text that no other table has or ever had; ours has none."""

    table: Any
    name: str = ""


@dataclass(eq=False)
class Block:
    """A `using` block that was entered: its functions, and what was last in use because of it."""

    functions: dict[str, Any]
    last: InUse | None = None


_numbers = itertools.count(1)


@lru_cache(maxsize=64)
def _known(*_functions: Any) -> str:
    return str(next(_numbers))


def _weakly(function: Any) -> Any:
    """What equals itself for the same function only, and does not keep it alive."""
    try:
        return WeakMethod(function) if isinstance(function, MethodType) else ref(function)
    except TypeError:  # None, and a few functions in C, which stay anyway
        return function


def _name(table: Any) -> str:
    try:
        return _known(*(_weakly(getattr(table, f.name)) for f in fields(table)))
    except TypeError:  # a table with an unhashable function counts as new each time
        return str(next(_numbers))


class Slots(Generic[Table]):
    """The slots of a table. Make one where a module is imported: a ContextVar is never freed."""

    def __init__(self, ours: Table) -> None:
        self.ours = ours
        self.unfilled = InUse(ours)
        self.blocks: ContextVar[tuple[Block, ...]] = ContextVar("blocks", default=())
        self.in_use = ModuleType("in_use")
        vars(self.in_use)["__getattr__"] = self._innermost

    def _innermost(self, attribute: str) -> Any:
        """The `table` or its `name`: ours, updated by the `using` blocks around the caller."""
        blocks = self.blocks.get()
        if not blocks:
            return getattr(self.unfilled, attribute)
        functions: dict[str, Any] = {}
        for block in blocks:
            functions |= block.functions
        ours: Any = self.ours
        table, last = replace(ours, **functions), blocks[-1].last
        if last is None or last.table != table:  # an outer block may have ended in the meantime
            last = self.unfilled if table == ours else InUse(table, _name(table))
            blocks[-1].last = last
        return getattr(last, attribute)

    def current(self) -> Table:
        """The table in use in this thread and asyncio task, also for torch.compile."""
        table: Table = self.in_use.table if self.in_use.name else self.ours
        return table

    @contextmanager
    def using(self, **functions: Callable[..., Any] | None) -> Iterator[Table]:
        """Within the block, and in this thread and asyncio task only, these functions are in use.

        functions: by slot; None is ours. Yields the table. Raises ValueError for an unknown slot,
        TypeError for what is no function.
        """
        ours: Any = self.ours
        slots = [f.name for f in fields(ours)]
        unknown = sorted(set(functions) - set(slots))
        if unknown:
            expected = ", ".join(slots)
            raise ValueError(f"no slot named {', '.join(unknown)}; expected one of {expected}")
        for slot, function in functions.items():
            if function is not None and not callable(function):
                raise TypeError(f"{slot}={function!r}; expected a function, or None for ours")
        block = Block({s: getattr(ours, s) if f is None else f for s, f in functions.items()})
        blocks = (*(outer for outer in self.blocks.get() if outer.functions), block)
        token = self.blocks.set(blocks)
        try:
            yield self.current()
        finally:
            innermost = self.blocks.get() is blocks
            with suppress(ValueError):  # a generator may be closed in another thread or task
                if innermost:
                    self.blocks.reset(token)
            if not innermost or self.blocks.get() is blocks:
                # Another context still holds the block: empty it in place.
                block.functions, block.last = {}, None
