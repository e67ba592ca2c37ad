"""The encoder's operations as plain functions of tensors, and the table that holds them.

The model calls all of them through `current()`, so each is a slot that another implementation can
fill:

    with encoder.ops.using(layer_norm=my_layer_norm):
        out = model(mel)

    # B batch  C channels in  F frames  T positions  S state  O features out  A mlp width = 4 S
    # H heads  D head_dim = S / H  R positions that the MLP takes at a time

Every function returns a tensor of its input's dtype, on its input's device.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from melfront.backends.slots import Slots

LAYER_NORM_EPS = 1e-5  # torch's default, with which OpenAI trained
MLP_ROWS = 375  # positions that `mlp` takes at a time on a CPU: a quarter of 30 s


def conv1d(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Each output is a weighted sum of three neighbouring steps; one zero pads either end.

    x (B, C, F), weight (S, C, 3), bias (S,) -> (B, S, (F - 1) // stride + 1)
    """
    return functional.conv1d(x, weight, bias, stride=stride, padding=1)


def gelu(x: Tensor) -> Tensor:
    """x times the probability that a standard normal variable is below x; any shape.

    The exact form, with erf. The tanh approximation is up to 4.7e-4 off.
    """
    return functional.gelu(x)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = LAYER_NORM_EPS) -> Tensor:
    """Mean 0 and variance 1 along the last axis, then scale and shift: (..., S) -> (..., S)."""
    return functional.layer_norm(x, weight.shape, weight, bias, eps)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias: x (..., S), weight (O, S), bias (O,) or None -> (..., O)."""
    return functional.linear(x, weight, bias)


def qkv(
    x: Tensor, q_weight: Tensor, q_bias: Tensor, k_weight: Tensor, v_weight: Tensor, v_bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The three projections of attention: x (B, T, S) -> q, k, v, each (B, T, S).

    There is no k_bias: it would add the same amount to every score of a query, and softmax
    cancels it.
    """
    op = current()
    return op.linear(x, q_weight, q_bias), op.linear(x, k_weight), op.linear(x, v_weight, v_bias)


def scores(q: Tensor, k: Tensor) -> Tensor:
    """How well each query matches each key: q k^T / sqrt(D), q, k (B, H, T, D) -> (B, H, T, T).

    D is 64 in every published Whisper, so the factor is 1/8: exact, wherever it is applied.
    """
    return (q * q.shape[-1] ** -0.5) @ k.mT


def softmax(scores: Tensor) -> Tensor:
    """exp(scores), normalised to sum to 1 along the last axis; any shape."""
    return torch.softmax(scores, dim=-1)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, from every position to every position: (B, H, T, D) all four.

    Nothing is masked, neither the future nor the padding.
    """
    return functional.scaled_dot_product_attention(q, k, v)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attention` computed through the slots `scores` and `softmax`: (B, H, T, D) all four."""
    op = current()
    return op.softmax(op.scores(q, k)) @ v


def mlp(
    x: Tensor, fc1_weight: Tensor, fc1_bias: Tensor, fc2_weight: Tensor, fc2_bias: Tensor
) -> Tensor:
    """Two linear maps with a GELU between them, A = 4 S wide: x (B, T, S) -> (B, T, S).

    fc1_weight (A, S), fc1_bias (A,), fc2_weight (S, A), fc2_bias (S,). On a CPU it takes MLP_ROWS
    positions at a time: the tensor between the maps, otherwise the largest of all, is then no
    larger than x. On a GPU that would cost time, and a recorded graph would be tied to one length.
    """
    op = current()

    def in_one(x: Tensor) -> Tensor:
        return op.linear(op.gelu(op.linear(x, fc1_weight, fc1_bias)), fc2_weight, fc2_bias)

    if x.device.type != "cpu" or is_recorded():
        return in_one(x)
    pieces = x.split(MLP_ROWS, dim=-2)  # (B, R, S) each
    if torch.is_grad_enabled():
        return torch.cat([in_one(rows.contiguous()) for rows in pieces], dim=-2)
    out = torch.empty_like(x)
    for rows, place in zip(pieces, out.split(MLP_ROWS, dim=-2), strict=True):
        place.copy_(in_one(rows.contiguous()))
    return out


def is_recorded() -> bool:
    """Is torch.compile, torch.export or torch.jit.trace making a graph of this call?"""
    # mypy: is_tracing is public, but not in torch.jit's __all__
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined]  # see above


@dataclass(frozen=True)
class Ops:
    """The table: which function is in which slot."""

    conv1d: Callable[..., Tensor] = conv1d
    gelu: Callable[..., Tensor] = gelu
    layer_norm: Callable[..., Tensor] = layer_norm
    linear: Callable[..., Tensor] = linear
    qkv: Callable[..., tuple[Tensor, Tensor, Tensor]] = qkv
    scores: Callable[..., Tensor] = scores
    softmax: Callable[..., Tensor] = softmax
    attention: Callable[..., Tensor] = attention
    mlp: Callable[..., Tensor] = mlp


_slots = Slots(Ops())
OURS = _slots.ours


def current() -> Ops:
    """The functions in use in this thread and asyncio task, inside a compiled model too."""
    return _slots.current()


def using(**functions: Callable[..., object] | None) -> AbstractContextManager[Ops]:
    """Within the block, and in this thread only, the encoder calls these functions instead of ours.

    So does a compiled model: `torch.compile(model, fullgraph=True)` compiles once for each set of
    functions, and raises beyond torch's `recompile_limit` of 8. In asyncio the block holds for the
    task that entered it and for tasks started within it. A part of the model that was replaced or
    has a hook is called as a module and uses no slot; a warning says so (`parts.py`).

    functions: by slot; each takes and returns what ours of that name does. None is ours, whatever
        is in use around the block. On a CPU the MLP passes MLP_ROWS positions at a time to `linear`
        and `gelu`, contiguous.
    Yields the table. Raises ValueError for an unknown slot, TypeError for what is no function.
    """
    return _slots.using(**functions)
