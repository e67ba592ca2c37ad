"""What a kernel makes of its weights, once per set of them. Imports the standard library alone."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from ..reasons import Refused
from .loading import check_call, raised


class Preparation:
    """A kernel's `prepare`, if it has one, and what that has made of the weights at hand."""

    def __init__(self, prepare: Callable[..., Any] | None = None, weights: int = 0) -> None:
        """weights: how many of a call's arguments, after the first, are weights."""
        self.prepare, self.end = prepare, 1 + weights
        self.made: list[Any] = []  # of the weights of each copy of a case

    def check(self, args: list[Any], slot: str) -> None:
        """Refuse a `prepare` that cannot be called with the weights of this call."""
        if self.prepare:
            check_call(self.prepare, args[1 : self.end], {}, slot)

    def forget(self) -> None:
        """Drop what was made of earlier weights, which may hold itself in a cycle."""
        self.made = []
        gc.collect(0)

    def run(self, copies: list[list[Any]]) -> None:
        """Have the weights of each copy prepared. Raises Refused."""
        self.forget()
        assert self.prepare
        try:
            for args in copies:
                self.made.append(self.prepare(*args[1 : self.end]))
        except BaseException as error:
            refused = raised(error)
            raise Refused(refused.code, f"raises {refused.text}") from None

    def placed(self, args: list[Any], copy: int) -> list[Any]:
        """The arguments of a call, with what was made of the weights in their place."""
        if not self.prepare:
            return args
        made = self.made[copy] if self.made else None
        return [args[0], made, *args[self.end :]]
