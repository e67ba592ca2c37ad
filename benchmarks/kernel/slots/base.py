"""The slots: every op that the front end and the encoder call, and what a kernel for it must do.

A slot has its signature, the function of ours that does it (`reference`, which is also the first
rival), the float64 `truth` it is held to, the floating-point operations and bytes that the work
needs at least (`work`), and other ways to do it, timed beside it (`rivals`).

    # B batch  M mel bins  F frames  K frequencies = 201  N n_fft = 400  L samples
    # C channels in  T positions  S state  O features out  H heads  D head_dim  A mlp width
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from encoder import ops, oracle

from . import functions as f
from .functions import BLOCK_ARGUMENTS, f64


@dataclass(frozen=True)
class Slot:
    """One op. `reference` takes and returns tensors; `truth` takes them and returns float64."""

    name: str
    call: str  # how it is called
    shapes: str  # of arguments and result
    meaning: str
    reference: Callable[..., Any]
    truth: Callable[..., Any]
    flops: Callable[..., float]  # of the same arguments
    rivals: dict[str, tuple[Callable[..., Any], str]] = field(default_factory=dict)
    front_end: bool = False


SLOTS = {
    slot.name: slot
    for slot in (
        Slot(
            "stft",
            "stft(frames, window)",
            "frames (F, N) or (B, F, N), a view with overlaps; window (N,) -> (F, K)",
            "the squared size of each frequency of each frame",
            f.stft,
            f.stft_truth,
            lambda frames, _: f.fft_flops(frames[..., 0].numel()),
            {"numpy": (f.numpy_stft, "numpy")},
            True,
        ),
        Slot(
            "mel",
            "mel(power, filters)",
            "power (F, K), filters (M, K) -> (M, F)",
            "neighbouring frequencies averaged in triangles",
            f.mel,
            lambda p, f: f64(f) @ f64(p).swapaxes(-1, -2),
            lambda p, f: 2.0 * p[..., 0].numel() * int((f != 0).sum()),
            {"numpy": (lambda p, f: f @ p.swapaxes(-1, -2), "numpy")},
            True,
        ),
        Slot(
            "log_scale",
            "log_scale(mel)",
            "mel (M, F) or (B, M, F) -> the same",
            "log10 of at least 1e-10, no less than the item's maximum - 8, then (x + 4) / 4",
            f.log_scale,
            f.log_scale_truth,
            f.elementwise(6),
            {"numpy": (f.numpy_log_scale, "numpy")},
            True,
        ),
        Slot(
            "log_mel",
            "log_mel(audio, n_mels)",
            "audio (L,) or (B, L), 16 kHz, up to 30 s -> (n_mels, 3000) or (B, n_mels, 3000)",
            "the whole front end: waveform to features",
            f.log_mel,
            f.log_mel_truth,
            f.log_mel_flops,
            {"numpy": (f.log_mel, "numpy")},
            True,
        ),
        Slot(
            "conv1d_gelu",
            "conv1d_gelu(x, weight, bias, stride)",
            "x (B, C, F), weight (S, C, 3), bias (S,) -> (B, S, (F - 1) // stride + 1)",
            "three neighbouring steps mixed, one zero before and after, then GELU",
            f.conv1d_gelu,
            f.conv1d_gelu_truth,
            f.conv_flops,
        ),
        Slot(
            "gelu",
            "gelu(x)",
            "x of any shape -> the same",
            "x times the chance that a normal variable is below it: 0.5 x (1 + erf(x / sqrt(2)))",
            ops.gelu,
            lambda x: oracle.gelu(f64(x)),
            f.elementwise(10),
            {"numpy": (f.numpy_gelu, "numpy")},
        ),
        Slot(
            "layer_norm",
            "layer_norm(x, weight, bias, eps=1e-5)",
            "x (..., S), weight (S,), bias (S,) -> (..., S)",
            "mean 0 and variance 1 along the last axis, then scaled and shifted",
            ops.layer_norm,
            lambda x, w, b: oracle.layer_norm(f64(x), f64(w), f64(b)),
            f.elementwise(7),
            {"numpy": (f.numpy_layer_norm, "numpy")},
        ),
        Slot(
            "linear",
            "linear(x, weight, bias=None)",
            "x (..., S), weight (O, S), bias (O,) or none -> (..., O)",
            "x weight^T + bias",
            ops.linear,
            lambda x, w, b=None: oracle.linear(f64(x), f64(w), 0.0 if b is None else f64(b)),
            f.linear_flops,
            {"numpy": (f.numpy_linear, "numpy")},
        ),
        Slot(
            "qkv",
            "qkv(x, q_weight, q_bias, k_weight, v_weight, v_bias)",
            "x (B, T, S), weights (S, S), biases (S,) -> q, k, v, each (B, T, S)",
            "attention's three projections; k has no bias",
            ops.qkv,
            f.qkv_truth,
            lambda x, w, *_: 6.0 * x.numel() * w.shape[0],
            {"one product": (f.one_projection, "torch")},
        ),
        Slot(
            "softmax",
            "softmax(scores)",
            "scores (..., T) -> the same",
            "exp, made to sum to 1 along the last axis",
            ops.softmax,
            lambda x: oracle.softmax(f64(x)),
            f.elementwise(4),
            {"numpy": (f.numpy_softmax, "numpy")},
        ),
        Slot(
            "attention",
            "attention(q, k, v)",
            "q, k, v (B, H, T, D), D = 64 -> (B, H, T, D)",
            "softmax(q k^T / sqrt(D)) v, nothing masked",
            ops.attention,
            f.attention_truth,
            f.attention_flops,
            {"explicit": (f.explicit_attention, "torch")},
        ),
        Slot(
            "mlp",
            "mlp(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias)",
            "x (..., S), fc1_weight (A, S), fc2_weight (S, A) -> (..., S)",
            "linear, GELU, linear",
            ops.mlp,
            lambda x, w1, b1, w2, b2: oracle.linear(
                oracle.gelu(oracle.linear(f64(x), f64(w1), f64(b1))), f64(w2), f64(b2)
            ),
            f.mlp_flops,
        ),
        Slot(
            "block",
            f"block(x, {BLOCK_ARGUMENTS}, n_head)",
            "x (B, T, S) -> (B, T, S); shapes of the weights as in the slots above",
            "attention and the MLP, each on a normed copy, each added to what was there",
            f.block,
            f.block_truth,
            f.block_flops,
        ),
    )
}


def least_bytes(args: tuple[Any, ...], outs: list[Tensor]) -> float:
    """Every argument read once, every result written once."""
    given = [a for a in args if isinstance(a, Tensor)]
    # Overlapping frames lie in less memory than they have elements.
    under = [
        min(t.numel(), 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)))
        for t in given
    ]
    sizes = [n * t.element_size() for n, t in zip(under, given, strict=True)]
    return float(sum(sizes) + sum(o.numel() * o.element_size() for o in outs))


def results(slot: Slot, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """What the reference makes of the arguments: contiguous tensors of their type."""
    with torch.no_grad():
        out = slot.reference(*args, **kwargs)
    return [t.contiguous() for t in (out if isinstance(out, (tuple, list)) else [out])]


def rivals(_candidate: Any, name: str) -> dict[str, tuple[Callable[..., Any], str]]:
    """The table of functions that the rivals' process serves, for `child.Child.load`."""
    slot = SLOTS[name]

    def empty(*_args: Any, **_kwargs: Any) -> Any:
        return None

    return {"reference": (slot.reference, "torch"), **slot.rivals, "nothing": (empty, "torch")}
