"""What the slots are made of: float64 truths, other ways to do it, and the work that it takes.

# B batch  M mel bins  F frames  K frequencies = 201  N n_fft = 400  L samples
# C channels in  T positions  S state  O features out  H heads  D head_dim  A mlp width
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import melfront
from encoder import ops, oracle
from melfront.conventions import DYNAMIC_RANGE, LOG_FLOOR, TRANSFORMERS

Array = np.ndarray[Any, Any]
f64 = oracle.as_float64


# --- the front end --------------------------------------------------------------------------------


def stft(frames: Tensor, window: Tensor) -> Tensor:
    """Frames to power, as `melfront.torch_backend` does it: (..., F, N), (N,) -> (..., F, K)."""
    return torch.view_as_real(torch.fft.rfft(frames * window)).square().sum(-1)


def stft_truth(frames: Tensor, window: Tensor) -> Array:
    spectrum = melfront.oracle.spectrum(f64(frames) * f64(window), TRANSFORMERS)
    return melfront.oracle.power(spectrum, TRANSFORMERS)


def numpy_stft(frames: Array, window: Array) -> Array:
    from scipy.fft import rfft

    spectrum = rfft(frames * window)
    return spectrum.real**2 + spectrum.imag**2


def mel(power: Tensor, filters: Tensor) -> Tensor:
    """Power to mel power: (..., F, K), (M, K) -> (..., M, F)."""
    return filters @ power.mT


def log_scale(mel: Tensor) -> Tensor:
    """Mel power to features: (..., M, F) -> (..., M, F), each item below its own maximum."""
    log = mel.clamp(min=LOG_FLOOR).log10()
    return (torch.maximum(log, log.amax((-2, -1), keepdim=True) - DYNAMIC_RANGE) + 4) / 4


def log_scale_truth(mel: Tensor) -> Array:
    log = melfront.oracle.clamp(melfront.oracle.log(f64(mel), TRANSFORMERS), TRANSFORMERS)
    return melfront.oracle.scale(log, TRANSFORMERS)


def numpy_log_scale(mel: Array) -> Array:
    log = np.log10(np.maximum(mel, np.float32(LOG_FLOOR)))
    np.maximum(log, log.max(axis=(-2, -1), keepdims=True) - np.float32(DYNAMIC_RANGE), out=log)
    return (log + np.float32(4)) / np.float32(4)


def log_mel(audio: Any, n_mels: int) -> Any:
    """`melfront.log_mel` for what it is given, tensor or array: (..., L) -> (..., M, 3000)."""
    return melfront.log_mel(audio, n_mels=n_mels)


def log_mel_truth(audio: Tensor, n_mels: int) -> Array:
    return melfront.oracle.log_mel(f64(audio), n_mels=n_mels)


# --- the encoder ----------------------------------------------------------------------------------


def conv1d_gelu(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """The two ops that the stem calls one after the other."""
    op = ops.current()
    return op.gelu(op.conv1d(x, weight, bias, stride))


def conv1d_gelu_truth(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Array:
    items = [oracle.conv1d(item, f64(weight), f64(bias), stride) for item in f64(x)]
    return oracle.gelu(np.stack(items))


def qkv_truth(x: Tensor, wq: Tensor, bq: Tensor, wk: Tensor, wv: Tensor, bv: Tensor) -> list[Array]:
    x64 = f64(x)
    return [
        oracle.linear(x64, f64(wq), f64(bq)),
        oracle.linear(x64, f64(wk)),
        oracle.linear(x64, f64(wv), f64(bv)),
    ]


def attention_truth(q: Tensor, k: Tensor, v: Tensor) -> Array:
    """Item by item: the scores of a whole batch in float64 are large."""
    items = zip(f64(q), f64(k), f64(v), strict=True)
    return np.stack([oracle.softmax(oracle.scores(qi, ki)) @ vi for qi, ki, vi in items])


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ops.explicit_attention(q, k, v)


# A block's weights, in the order in which they are passed, under the names of encoder/oracle.py.
BLOCK_WEIGHTS = [
    "attn_ln.weight",
    "attn_ln.bias",
    "attn.q.weight",
    "attn.q.bias",
    "attn.k.weight",
    "attn.v.weight",
    "attn.v.bias",
    "attn.out.weight",
    "attn.out.bias",
    "mlp_ln.weight",
    "mlp_ln.bias",
    "mlp.fc1.weight",
    "mlp.fc1.bias",
    "mlp.fc2.weight",
    "mlp.fc2.bias",
]
BLOCK_ARGUMENTS = ", ".join(
    name.replace("attn.", "").replace("mlp.", "").replace(".", "_") for name in BLOCK_WEIGHTS
)


def block(x: Tensor, *weights_and_heads: Any) -> Tensor:
    """`encoder.model.Block` with these weights, on x (B, T, S)."""
    from encoder import EncoderConfig
    from encoder.model import Block

    *weights, n_head = weights_and_heads
    state, inner = x.shape[-1], weights[BLOCK_WEIGHTS.index("mlp.fc1.weight")].shape[0]
    with torch.device("meta"):
        layer = Block(EncoderConfig(80, x.shape[1], state, n_head, 1, inner))
    layer.load_state_dict(dict(zip(BLOCK_WEIGHTS, weights, strict=True)), assign=True)
    with torch.no_grad():
        return layer(x)


def block_truth(x: Tensor, *weights_and_heads: Any) -> Array:
    *weights, n_head = weights_and_heads
    table = {name: f64(w) for name, w in zip(BLOCK_WEIGHTS, weights, strict=True)}
    return np.stack([oracle.block(item, table, n_head, oracle.no_tap) for item in f64(x)])


# --- rivals: other ways that people would write it -----------------------------------------------


def numpy_layer_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + np.float32(eps)) * weight + bias


def numpy_gelu(x: Array) -> Array:
    from scipy.special import erf

    return np.float32(0.5) * x * (1 + erf(x * np.float32(0.5**0.5)))


def numpy_softmax(scores: Array) -> Array:
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def numpy_linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    return x @ weight.T if bias is None else x @ weight.T + bias


def one_projection(
    x: Tensor, wq: Tensor, bq: Tensor, wk: Tensor, wv: Tensor, bv: Tensor
) -> tuple[Tensor, ...]:
    """qkv as one product; a model would keep the joined weights, here joining them is timed."""
    joined = functional.linear(
        x, torch.cat([wq, wk, wv]), torch.cat([bq, torch.zeros_like(bq), bv])
    )
    return joined.chunk(3, dim=-1)


# --- the work that cannot be avoided --------------------------------------------------------------


def linear_flops(x: Tensor, weight: Tensor, bias: Any = None) -> float:
    return 2.0 * x.numel() * weight.shape[0]


def attention_flops(q: Tensor, k: Tensor, v: Tensor) -> float:
    b, h, t, d = q.shape
    return b * h * t * t * (4.0 * d + 4)


def fft_flops(frames: int, n: int = 400) -> float:
    """Of a real transform, 2.5 N log2 N, the window and the squares."""
    return frames * (2.5 * n * log2(n) + n + 1.5 * n)


def conv_flops(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> float:
    out = x.shape[0] * weight.shape[0] * ((x.shape[2] - 1) // stride + 1)
    # Winograd's F(2, 3) does stride 1 with two thirds of the products.
    return out * (2.0 * x.shape[1] * 3 * (2 / 3 if stride == 1 else 1) + 10)


def log_mel_flops(audio: Tensor, n_mels: int) -> float:
    frames = audio.numel() // 160
    return fft_flops(frames) + frames * (2 * 394 + 6 * n_mels)


def mlp_flops(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> float:
    return x.numel() * (4.0 * w1.shape[0] + 10 * w1.shape[0] / x.shape[-1])


def block_flops(x: Tensor, *weights_and_heads: Any) -> float:
    b, t, s = x.shape
    inner = weights_and_heads[BLOCK_WEIGHTS.index("mlp.fc1.weight")].shape[0]
    return b * t * (8.0 * s * s + 4 * s * inner + 4 * t * s)


def elementwise(flops: float) -> Callable[..., float]:
    return lambda x, *_: flops * prod(x.shape)
