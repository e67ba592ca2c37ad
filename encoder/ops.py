"""The operations that the encoder is made of, as plain functions of tensors, and the table of them.

The model calls every one of them through `current()`, so each is a slot that another
implementation can fill:

    with encoder.ops.using(layer_norm=my_layer_norm):
        out = model(mel)

    # B batch  C channels in  T positions  S state  O features out  H heads  D head_dim = S / H
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LAYER_NORM_EPS = 1e-5  # torch's default, which OpenAI trained with


def conv1d(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Each output is a weighted sum of three neighbouring steps; one zero is put before and after.

    x (B, C, F), weight (S, C, 3), bias (S,) -> (B, S, (F - 1) // stride + 1)
    """
    return functional.conv1d(x, weight, bias, stride=stride, padding=1)


def gelu(x: Tensor) -> Tensor:
    """x times the chance that a normal variable is below x, the exact erf form; any shape.

    Not the tanh approximation, which is up to 4.7e-4 off.
    """
    return functional.gelu(x)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = LAYER_NORM_EPS) -> Tensor:
    """Mean 0 and variance 1 along the last axis, then scaled and shifted: (..., S) -> (..., S)."""
    return functional.layer_norm(x, weight.shape, weight, bias, eps)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias: x (..., S), weight (O, S), bias (O,) or None -> (..., O)."""
    return functional.linear(x, weight, bias)


def qkv(
    x: Tensor,
    q_weight: Tensor,
    q_bias: Tensor,
    k_weight: Tensor,
    v_weight: Tensor,
    v_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The three projections of attention: x (B, T, S) -> q, k, v, each (B, T, S).

    There is no k_bias: it would add the same amount to every score of a query, which softmax
    takes off again.
    """
    op = current()
    return op.linear(x, q_weight, q_bias), op.linear(x, k_weight), op.linear(x, v_weight, v_bias)


def scores(q: Tensor, k: Tensor) -> Tensor:
    """How well each query fits each key, over sqrt(D): q, k (B, H, T, D) -> (B, H, T, T).

    D is 64 in every published Whisper, so the factor is 1/8 and exact wherever it is applied.
    """
    return (q * q.shape[-1] ** -0.5) @ k.mT


def softmax(scores: Tensor) -> Tensor:
    """exp(scores), made to sum to 1 along the last axis; any shape."""
    return torch.softmax(scores, dim=-1)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, of every position over every position: (B, H, T, D) all four.

    Nothing is masked: not the future, and not the padding.
    """
    return functional.scaled_dot_product_attention(q, k, v)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attention` spelled out through the slots `scores` and `softmax`, (B, H, T, D) all four."""
    op = current()
    return op.softmax(op.scores(q, k)) @ v


def mlp(
    x: Tensor, fc1_weight: Tensor, fc1_bias: Tensor, fc2_weight: Tensor, fc2_bias: Tensor
) -> Tensor:
    """Two linear maps with a GELU between them: x (..., S) -> (..., S); inside it is 4 S wide."""
    op = current()
    return op.linear(op.gelu(op.linear(x, fc1_weight, fc1_bias)), fc2_weight, fc2_bias)


@dataclass(frozen=True)
class Ops:
    """The table: which function fills each slot."""

    conv1d: Callable[..., Tensor] = conv1d
    gelu: Callable[..., Tensor] = gelu
    layer_norm: Callable[..., Tensor] = layer_norm
    linear: Callable[..., Tensor] = linear
    qkv: Callable[..., tuple[Tensor, Tensor, Tensor]] = qkv
    scores: Callable[..., Tensor] = scores
    softmax: Callable[..., Tensor] = softmax
    attention: Callable[..., Tensor] = attention
    mlp: Callable[..., Tensor] = mlp


OURS = Ops()


@dataclass(eq=False)
class Using:
    """A `using` block that was entered: its functions, and the table that they made at last."""

    functions: dict[str, Callable[..., object]]
    table: Ops = OURS
    name: str = ""


_blocks: ContextVar[tuple[Using, ...]] = ContextVar("blocks", default=())
_numbers = itertools.count(1)


@lru_cache(maxsize=64)
def _known(_table: Ops) -> str:
    return str(next(_numbers))


def name_of(table: Ops) -> str:
    """A text that no other table has or has had."""
    try:
        return _known(table)
    except TypeError:  # with a function that has no hash it counts as a new table each time
        return str(next(_numbers))


def _innermost(attribute: str) -> Any:
    """The `table` or its `name`: ours, with the functions of the blocks that the caller is in."""
    blocks = _blocks.get()
    if not blocks:
        return getattr(Using, attribute)
    functions: dict[str, Any] = {}
    for block in blocks:
        functions |= block.functions
    table = replace(OURS, **functions)
    if table != blocks[-1].table:  # a block around it may have been left in the meantime
        blocks[-1].table, blocks[-1].name = table, name_of(table)
    return getattr(blocks[-1], attribute)


# torch.compile cannot read a ContextVar. Of a module it reads what its `__getattr__` returns, and
# reads it again before each call, in the caller's thread and task, to see if what it made still
# holds: with other functions it compiles anew. It compares a table's name, since of two functions
# made of the same code it may think that they are one.
_in_use = ModuleType("_in_use")
vars(_in_use)["__getattr__"] = _innermost


def current() -> Ops:
    """The functions in use, in this thread and asyncio task, for a compiled model too."""
    if not _in_use.name:
        return OURS
    table: Ops = _in_use.table
    return table


@contextmanager
def using(**functions: Callable[..., object]) -> Iterator[Ops]:
    """Within the block the encoder calls these functions instead of ours, in this thread only.

    So does a compiled model: `torch.compile(model, fullgraph=True)` compiles once for each set of
    functions that it meets, and raises where these are more than torch's `recompile_limit`, 8. Of
    asyncio's tasks the block is that of the one that entered it and of those started within.
    A part of the model that is not plainly ours is called as it is and uses no slot, with a
    warning: see `parts.py`.

    A function takes and returns what ours of that name does. Raises ValueError for a name that is
    no slot.
    """
    slots = [f.name for f in fields(Ops)]
    unknown = sorted(set(functions) - set(slots))
    if unknown:
        raise ValueError(f"no slot named {', '.join(unknown)}; expected one of {', '.join(slots)}")
    block = Using(functions)
    blocks = (*(outer for outer in _blocks.get() if outer.functions), block)
    token = _blocks.set(blocks)
    try:
        yield current()
    finally:
        innermost = _blocks.get() is blocks
        with suppress(ValueError):  # a generator may be closed in another thread or task
            if innermost:
                _blocks.reset(token)
        if not innermost or _blocks.get() is blocks:
            block.functions = {}  # out of reach from here, so it is emptied where it is
