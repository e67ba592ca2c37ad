"""Number formats of fewer bits, and the encoder's products and weights in them.

ggml's blocks are defined by the reference quantisers of its ggml-quants.c: 32 neighbours of a row
share a scale, and in the formats that end in 1 an offset, which are stored in float16.

A right port in fewer bits multiplies rounded factors and sums in float32. Which factors differs
from port to port - some keep attention in float32, some round the results and the GELU too - and
its error with it, by less than a factor of two. `products(kind)` rounds the factors of the linear
maps, the convolutions and attention. With `results`, it rounds in 16-bit types also what these and
the GELU return: a GPU writes that type, and ggml looks the GELU up in a table of float16. The unit
of noise is the error of the latter.

    # B batch  T positions  S state  H heads  D head_dim  N blocks  32 values of a block
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from melfront.encoder import WhisperEncoder, ops

BLOCK = 32  # values that share a scale in ggml's formats
TF32_BITS = 13  # of float32's 23 that TF32 leaves out
TINY = 2.0**-126  # the smallest normal float32: divides a block of zeros

Format = Callable[[Tensor], Tensor]  # float32, any shape, to float32 of the same shape


def rounded(tensor: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """A real or complex tensor with its values rounded to a type, as float32 or complex64."""
    if tensor.is_complex():
        parts = torch.view_as_real(tensor).to(kind).float()
        return torch.view_as_complex(parts.contiguous())
    return tensor.to(kind).float()


def float16(x: Tensor) -> Tensor:
    return x.half().to(x)


def bfloat16(x: Tensor) -> Tensor:
    return x.bfloat16().to(x)


def tf32(x: Tensor) -> Tensor:
    """float32 with 10 bits of mantissa, to nearest even: what a tensor core multiplies."""
    if x.dtype != torch.float32:
        return x  # 16-bit types have no more bits than that
    bits = x.contiguous().view(torch.int32)
    half = (1 << (TF32_BITS - 1)) - 1
    kept = bits + half + ((bits >> TF32_BITS) & 1) & -(1 << TF32_BITS)
    return torch.where(x.isfinite(), kept.view(torch.float32), x)


def symmetric(x: Tensor, largest: Tensor) -> Tensor:
    """8 bits, a scale for all values that share a largest: -127 .. 127 times largest / 127."""
    scale = (largest / 127).clamp(min=TINY)
    return (x / scale).round() * scale


def int8(x: Tensor) -> Tensor:
    """A scale for each row: of a matrix (O, S), or of activations (..., S) each position's own."""
    return symmetric(x, x.abs().amax(-1, keepdim=True))


def int8_tensor(x: Tensor) -> Tensor:
    """One scale for the whole tensor."""
    return symmetric(x, x.abs().amax())


def in_blocks(quantise: Format) -> Format:
    """A format of blocks; rows that no number of blocks fills stay as they are, as in ggml."""

    def whole(x: Tensor) -> Tensor:
        if x.shape[-1] % BLOCK:
            return x
        return quantise(x.reshape(-1, BLOCK).float()).reshape(x.shape).to(x)  # (N, 32)

    return whole


def from_largest(bits: int, scaled: Format = float16, first: bool = False) -> Format:
    """Q8_0 with 8 bits: the largest magnitude becomes the largest integer.

    scaled: what the scale is stored in; first: before it divides, where ggml does so after.
    """
    most = 2 ** (bits - 1) - 1

    def quantise(x: Tensor) -> Tensor:
        scale = x.abs().amax(1, keepdim=True) / most
        divides = scaled(scale) if first else scale
        return (x / divides.clamp(min=TINY)).round().clamp(-most, most) * scaled(scale)

    return in_blocks(quantise)


def around_zero(bits: int, scaled: Format = float16, first: bool = False) -> Format:
    """Q4_0, Q5_0: the value of largest magnitude becomes the lowest integer, -2^(bits - 1)."""
    half = 2 ** (bits - 1)

    def quantise(x: Tensor) -> Tensor:
        scale = x.gather(1, x.abs().argmax(1, keepdim=True)) / -half
        divides = scaled(scale) if first else scale
        integers = (x / torch.where(divides == 0, 1.0, divides) + (half + 0.5)).floor()
        return (integers.clamp(0, 2 * half - 1) - half) * scaled(scale)

    return in_blocks(quantise)


def from_minimum(bits: int, scaled: Format = float16, first: bool = False) -> Format:
    """Q4_1, Q5_1: integers from 0, the block's minimum, to 2^bits - 1, its maximum."""

    def quantise(x: Tensor) -> Tensor:
        least, most = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
        scale = (most - least) / (2**bits - 1)
        divides, start = (scaled(scale), scaled(least)) if first else (scale, least)
        integers = ((x - start) / divides.clamp(min=TINY) + 0.5).floor().clamp(0, 2**bits - 1)
        return integers * scaled(scale) + scaled(least)

    return in_blocks(quantise)


def same(x: Tensor) -> Tensor:
    return x


IN_BLOCKS: dict[str, tuple[Callable[..., Format], int]] = {
    "q8_0": (from_largest, 8),
    "q5_1": (from_minimum, 5),
    "q5_0": (around_zero, 5),
    "q5-even": (from_largest, 5),
    "q4_1": (from_minimum, 4),
    "q4_0": (around_zero, 4),
    "q4-even": (from_largest, 4),
}
FORMATS: dict[str, Format] = {  # by the names of `kinds`
    "float16": float16,
    "f16": float16,
    "bfloat16": bfloat16,
    "tf32": tf32,
    "int8": int8,
    "int8-tensor": int8_tensor,
    **{name: make(bits) for name, (make, bits) in IN_BLOCKS.items()},
    **{name + "-f16": make(bits, first=True) for name, (make, bits) in IN_BLOCKS.items()},
    **{name + "-f32": make(bits, scaled=same) for name, (make, bits) in IN_BLOCKS.items()},
}

# --- the encoder in them --------------------------------------------------------------------------

MATRICES = r"(attn\.(q|k|v|out)|fc[12])\.weight"
STORED_IN = {"float16": "", "bfloat16": "", "f16": rf"{MATRICES}|conv\d\.weight"}  # else MATRICES


@lru_cache
def products(kind: str, results: bool = False) -> dict[str, Callable[..., Any]]:
    """The ops to compute with, by slot of `encoder.ops`, for a kind of FACTORS."""
    if kind not in FORMATS:
        return {}
    if kind in ("q8_0", "int8", "int8-tensor"):
        return in_8_bits(kind)
    r = FORMATS[kind]
    out = r if results and kind != "tf32" else same

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return out(functional.linear(r(x), r(weight), bias))

    def conv1d(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        return out(functional.conv1d(r(x), r(weight), bias, stride, padding=1))

    def gelu(x: Tensor) -> Tensor:
        return out(functional.gelu(out(x)))

    return {"linear": linear, "conv1d": conv1d, "gelu": gelu, **attending(r, out)}


def attending(r: Format, out: Format) -> dict[str, Callable[..., Tensor]]:
    def scores(q: Tensor, k: Tensor) -> Tensor:
        return (r(q) @ r(k).mT) * q.shape[-1] ** -0.5  # (B, H, T, T)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return out(r(torch.softmax(scores(q, k), dim=-1)) @ r(v))  # (B, H, T, D)

    return {"scores": scores, "attention": attention}


def in_8_bits(kind: str) -> dict[str, Callable[..., Any]]:
    """The linear maps' activations rounded as they come; with ggml's blocks, which come with
    float16 elsewhere, the convolutions' and attention's factors to float16."""
    r = FORMATS[kind]

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.linear(r(x), weight, bias)

    def mlp(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        op = ops.current()  # all positions at once: they may share a scale
        return op.linear(op.gelu(op.linear(x, w1, b1)), w2, b2)

    others = products("float16") if kind == "q8_0" else {}
    return {**others, "linear": linear, "mlp": mlp}


def quantised(model: WhisperEncoder, kind: str) -> WhisperEncoder:
    """The model with its weights as they come back from a format of STORED."""
    store, which = FORMATS[kind], STORED_IN.get(kind, MATRICES)
    weights = dict(model.state_dict())
    changed = {name: store(w) for name, w in weights.items() if re.search(which, name)}
    return WhisperEncoder.from_weights(model.config, weights | changed)
