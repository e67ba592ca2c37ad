"""The encoder's operations done wrong, for the entries of `encoder_stem.py`, `encoder_blocks.py`.

Each has the signature of the function of `encoder.ops` that it replaces.

    # B batch  T positions  S state  H heads  D head_dim
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from melfront.encoder import ops
from melfront.variants import round_mantissa

Weights = dict[str, Tensor]

# --- ops done differently -------------------------------------------------------------------------


def tanh_gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def flipped_conv1d(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return ops.conv1d(x, weight.flip(-1), bias, stride)


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return functional.conv1d(functional.pad(x, (2, 0)), weight, bias, stride)


def late_conv1d(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return functional.conv1d(functional.pad(x, (2 - stride, stride)), weight, bias, stride)


def edge_conv1d(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return functional.conv1d(functional.pad(x, (1, 1), mode="replicate"), weight, bias, stride)


def swapped_strides(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return ops.conv1d(x, weight, bias, stride=3 - stride)


def norm_with_eps(eps: float) -> Callable[..., Tensor]:
    def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, _eps: float = 0.0) -> Tensor:
        return ops.layer_norm(x, weight, bias, eps)

    return layer_norm


def eps_outside(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True).sqrt() + eps) * weight + bias


def unbiased_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (x.var(-1, keepdim=True, unbiased=True) + eps).sqrt() * weight + bias


def rms_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def norm_without_bias(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    return ops.layer_norm(x, weight, torch.zeros_like(bias), eps)


def norm_without_scale(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    return ops.layer_norm(x, torch.ones_like(weight), bias, eps)


def one_pass_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = x.square().mean(-1, keepdim=True) - mean.square()
    return (x - mean) / (variance + eps).sqrt() * weight + bias


def naive_softmax(scores: Tensor) -> Tensor:
    shares = scores.exp()
    return shares / shares.sum(-1, keepdim=True)


def tf32_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return ops.linear(round_mantissa(x, 10), round_mantissa(weight, 10), bias)


def scores_times(factor: Callable[[int, int], float]) -> dict[str, Callable[..., Any]]:
    """Ops whose scores are q k^T times factor(head_dim, n_head)."""

    def scores(q: Tensor, k: Tensor) -> Tensor:
        return (q * factor(q.shape[-1], q.shape[1])) @ k.mT

    return {"scores": scores, "attention": ops.explicit_attention}


def causal_scores(q: Tensor, k: Tensor) -> Tensor:
    n = q.shape[2]
    future = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)
    return ops.scores(q, k).masked_fill(future, -math.inf)


def masked_scores(n_audio: int) -> Callable[..., Tensor]:
    def scores(q: Tensor, k: Tensor) -> Tensor:
        padding = torch.arange(k.shape[2], device=k.device) >= n_audio
        return ops.scores(q, k).masked_fill(padding, -math.inf)

    return scores


def always_explicit(_n_audio: int) -> Callable[..., Tensor]:
    return ops.explicit_attention


def softmax_over_queries(scores: Tensor) -> Tensor:
    return torch.softmax(scores, dim=-2)


def attend_to_padding(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    spare = -k.shape[2] % 256
    k, v = functional.pad(k, (0, 0, 0, spare)), functional.pad(v, (0, 0, 0, spare))
    return ops.attention(q, k, v)


def interleaved(x: Tensor) -> Tensor:
    """Heads (B, H, T, D) of every H-th channel instead of D neighbouring ones."""
    b, h, t, d = x.shape
    return x.transpose(1, 2).reshape(b, t, d, h).permute(0, 3, 1, 2)


def interleaved_scores(q: Tensor, k: Tensor) -> Tensor:
    return ops.scores(interleaved(q), interleaved(k))


def interleaved_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h, t, d = q.shape
    context = ops.attention(interleaved(q), interleaved(k), interleaved(v))
    return context.permute(0, 2, 3, 1).reshape(b, t, h, d).transpose(1, 2)


def reshaped(x: Tensor) -> Tensor:
    """Heads (B, H, T, D) as a reshape of (B, T, S) gives them, without a transposition."""
    return x.transpose(1, 2).reshape(x.shape)


def reshaped_scores(q: Tensor, k: Tensor) -> Tensor:
    return ops.scores(reshaped(q), reshaped(k))


def reshaped_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h, t, d = q.shape
    context = ops.attention(reshaped(q), reshaped(k), reshaped(v))
    return context.reshape(b, t, h, d).transpose(1, 2)


def attention_between_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return ops.attention(q, k, v).transpose(1, 2)


def swapped_qkv(order: str) -> Callable[..., tuple[Tensor, ...]]:
    """The projections, returned in another order."""

    def qkv(*arguments: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip("qkv", ops.qkv(*arguments), strict=True))
        return tuple(named[letter] for letter in order)

    return qkv


# --- weights changed ------------------------------------------------------------------------------

ZERO = torch.zeros_like


def each(pattern: str, change: Callable[[Tensor], Tensor]) -> Callable[[Weights], Weights]:
    """Change every tensor whose name ends in a match of the pattern."""
    return lambda weights: {
        name: change(w) if re.search(pattern + "$", name) else w for name, w in weights.items()
    }


def renamed(change: Callable[[str, int], str]) -> Callable[[Weights], Weights]:
    """Replace every tensor of a block by the one called change(name, n_layer)."""

    def apply(weights: Weights) -> Weights:
        n_layer = 1 + max(int(n.split(".")[1]) for n in weights if n.startswith("blocks."))
        return {
            name: weights[change(name, n_layer)] if name.startswith("blocks.") else w
            for name, w in weights.items()
        }

    return apply


def reversed_block(name: str, n_layer: int) -> str:
    first, number, rest = name.split(".", 2)
    return f"{first}.{n_layer - 1 - int(number)}.{rest}"


def first_block(name: str, _n_layer: int) -> str:
    return re.sub(r"blocks\.\d+", "blocks.0", name)


def swapped_norms(name: str, _n_layer: int) -> str:
    swap = {"attn_ln": "mlp_ln", "mlp_ln": "attn_ln"}
    return re.sub("attn_ln|mlp_ln", lambda found: swap[found[0]], name)


def int8(w: Tensor) -> Tensor:
    scale = w.abs().amax(-1, keepdim=True) / 127
    return (w / scale).round() * scale


# --- positions ------------------------------------------------------------------------------------


def position_table(w: Tensor, make: Callable[[int, int], Any]) -> Tensor:
    """A newly computed position table with the shape and type of w."""
    return torch.as_tensor(make(*w.shape)).to(w)


def interleave_table(w: Tensor) -> Tensor:
    half = w.shape[1] // 2
    return torch.stack([w[:, :half], w[:, half:]], dim=-1).flatten(1)


def other_base(n: int, state: int) -> Tensor:
    """The table with the exponent divided by state / 2, as in the Transformer paper."""
    half = state // 2
    angle = torch.arange(n, dtype=torch.float64)[:, None] / 10_000.0 ** (torch.arange(half) / half)
    return torch.cat([angle.sin(), angle.cos()], dim=1)
