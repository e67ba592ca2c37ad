"""What the encoder's entries replace ops and weights by, where that takes more than a line.

Each op has the signature of the function of `encoder.ops` that it replaces.

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

Weights = dict[str, Tensor]

# --- ops done differently -------------------------------------------------------------------------


def erf_of_three_terms(x: Tensor) -> Tensor:
    """Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.25."""
    t = 1 / (1 + 0.47047 * x.abs())
    series = ((0.7478556 * t - 0.0958798) * t + 0.3480242) * t
    return x.sign() * (1 - series * (-x.square()).exp())


def erf_without_exp(x: Tensor) -> Tensor:
    """Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.27."""
    a = x.abs()
    below = 1 + (((0.078108 * a + 0.000972) * a + 0.230389) * a + 0.278393) * a
    return x.sign() * (1 - below.pow(-4))


def biased_after(x: Tensor, bias: Tensor) -> Tensor:
    """The GELU of x, to which the bias was added already, with the bias added afterwards."""
    return ops.gelu(x - bias) + bias


def table(at: Any, x: Tensor) -> Tensor:
    """The positions of x (B, T, S): (T, S)."""
    positions: Tensor = at.model.positions
    return positions[: x.shape[1]]


def bias_not_scaled(at: Any, q: Tensor) -> Tensor:
    attn = at.block.attn
    bias: Tensor = attn.q.bias
    return q + (math.sqrt(q.shape[-1] // attn.n_head) - 1) * bias


def without_last_head(at: Any, context: Tensor) -> Tensor:
    heads: Tensor = at.block.attn.split(context).clone()  # (B, H, T, D)
    heads[:, -1] = 0
    return heads.transpose(1, 2).flatten(2)  # (B, T, S)


def padded_conv1d(pad: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor]:
    """A convolution of pad(x, stride), where ours puts one zero before x and one after."""
    return lambda x, weight, bias, stride: functional.conv1d(pad(x, stride), weight, bias, stride)


def eps_outside(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True).sqrt() + eps) * weight + bias


def unbiased_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (x.var(-1, keepdim=True, unbiased=True) + eps).sqrt() * weight + bias


def rms_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def one_pass_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = x.square().mean(-1, keepdim=True) - mean.square()
    return (x - mean) / (variance + eps).sqrt() * weight + bias


def overflowing_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """1 / infinity is 0, and finite: nothing but the bias is left of the position."""
    squares = (x - x.mean(-1, keepdim=True)).square()
    overflows = squares.amax(-1, keepdim=True) > torch.finfo(torch.float16).max
    return torch.where(overflows, bias, ops.layer_norm(x, weight, bias, eps))


def causal_scores(q: Tensor, k: Tensor) -> Tensor:
    future = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
    return ops.scores(q, k).masked_fill(future, -math.inf)


def masked_scores(n_audio: int, q: Tensor, k: Tensor) -> Tensor:
    padding = torch.arange(k.shape[2], device=k.device) >= n_audio
    return ops.scores(q, k).masked_fill(padding, -math.inf)


def attend_to_padding(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    spare = -k.shape[2] % 256
    k, v = functional.pad(k, (0, 0, 0, spare)), functional.pad(v, (0, 0, 0, spare))
    return ops.attention(q, k, v)


def heads(cut: Callable[[Tensor], Tensor], uncut: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Ops whose heads are cut otherwise: `cut` makes them of the right ones, `uncut` undoes it."""
    return {
        "scores": lambda q, k: ops.scores(cut(q), cut(k)),
        "attention": lambda q, k, v: uncut(ops.attention(cut(q), cut(k), cut(v))),
    }


def interleaved(x: Tensor) -> Tensor:
    """Heads (B, H, T, D) of every H-th channel instead of D neighbouring ones."""
    b, h, t, d = x.shape
    return x.transpose(1, 2).reshape(b, t, d, h).permute(0, 3, 1, 2)


def uninterleaved(x: Tensor) -> Tensor:
    b, h, t, d = x.shape
    return x.permute(0, 2, 3, 1).reshape(b, t, h, d).transpose(1, 2)


# --- weights changed ------------------------------------------------------------------------------


def each(pattern: str, change: Callable[[Tensor], Tensor]) -> Callable[[Weights], Weights]:
    """Change every tensor whose name ends in a match of the pattern."""
    return lambda weights: {
        name: change(w) if re.search(pattern + "$", name) else w for name, w in weights.items()
    }


def without(pattern: str) -> Callable[[Weights], Weights]:
    """The same with zeros."""
    return each(pattern, torch.zeros_like)


def first_block(weights: Weights) -> Weights:
    return {name: weights[re.sub(r"blocks\.\d+", "blocks.0", name)] for name in weights}


def reversed_blocks(weights: Weights) -> Weights:
    last = max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))

    def other(found: re.Match[str]) -> str:
        return f"blocks.{last - int(found[1])}."

    return {re.sub(r"blocks\.(\d+)\.", other, name): w for name, w in weights.items()}


def swapped_norms(weights: Weights) -> Weights:
    swap = {"attn_ln": "mlp_ln", "mlp_ln": "attn_ln"}
    return {re.sub("attn_ln|mlp_ln", lambda n: swap[n[0]], name): weights[name] for name in weights}


def int8(w: Tensor) -> Tensor:
    scale = w.abs().amax(-1, keepdim=True) / 127
    return (w / scale).round() * scale


def other_base(n: int, state: int) -> Tensor:
    """Positions whose exponent is divided by state / 2, as in the Transformer paper."""
    half = state // 2
    angle = torch.arange(n, dtype=torch.float64)[:, None] / 10_000.0 ** (torch.arange(half) / half)
    return torch.cat([angle.sin(), angle.cos()], dim=1)
