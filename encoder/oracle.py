"""Whisper's encoder in float64 NumPy, spelled out: read this file first.

The features say how loud each of M pitches is in each of 3000 frames of 10 ms. The encoder turns
them into 1500 hidden states, one per 20 ms, each of which knows what was said around it. Stages:

    conv1, gelu1        each frame and its two neighbours, mixed into S channels    (S, F)
    conv2, gelu2        the same again, at every other frame only                   (S, T)
    positions           the table of positions added; time runs downwards now       (T, S)
    block.i.attn_ln     normed copy of the hidden states                            (T, S)
    block.i.attn.q,k,v  queries, keys and values                                    (T, S)
    block.i.attn.scores how well each query (down) matches each key (across)        (H, T, T)
    block.i.attn.weights  the same as shares that sum to 1                          (H, T, T)
    block.i.attn.context  the values, averaged with these shares                    (T, S)
    block.i.attn.out    mixed across the heads                                      (T, S)
    block.i.attn_residual  added to the block's input                               (T, S)
    block.i.mlp_ln, .mlp.fc1, .mlp.gelu, .mlp.fc2, .mlp_residual    the same, for the MLP
    ln_post             normed once more: the encoder's output                      (T, S)

    # M mel bins  F frames = 3000  T positions = 1500  S state  H heads  D head_dim = S / H
    # C channels in  A mlp width = 4 S

One clip at a time, (M, F). `weights` has the names of `checkpoint.shapes`, in any float type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from .config import EncoderConfig

Array = NDArray[np.float64]
Tap = Callable[[str, Array], Array]  # gets each stage's name and tensor, returns the tensor to use
Weights = Mapping[str, Any]


def no_tap(_stage: str, tensor: Array) -> Array:
    return tensor


def conv1d(x: Array, weight: Array, bias: Array, stride: int) -> Array:
    """Each output step is a weighted sum of three neighbouring input steps, over all channels.

    One step of zeros pads either end, so that stride 1 keeps the length. Stride 2 keeps every other
    output: step t is centred on input step 2 t.

    x (C, F), weight (S, C, 3), bias (S,) -> (S, (F - 1) // stride + 1). Reproduces torch's conv1d
    with padding=1, which, as in every deep-learning library, does not flip the kernel.
    """
    n = x.shape[1]
    x = np.pad(x, ((0, 0), (1, 1)))
    # Copies, because NumPy multiplies matrices that are not contiguous thirty times slower.
    before, centre, after = (x[:, shift : shift + n : stride].copy() for shift in range(3))
    kernel = weight.transpose(2, 0, 1).copy()  # (3, S, C)
    return kernel[0] @ before + kernel[1] @ centre + kernel[2] @ after + bias[:, None]


def gelu(x: Array) -> Array:
    """x times the probability that a normal variable is below x: a gate, nearly closed below -3.

    Any shape. The exact form; the tanh approximation is up to 4.7e-4 off.
    """
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def layer_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    """Mean 0 and variance 1 at each position by itself, then scale and shift.

    (T, S) -> (T, S). The variance is the mean square (divided by S, not by S - 1).
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * weight + bias


def linear(x: Array, weight: Array, bias: Array | float = 0.0) -> Array:
    """x (T, S), weight (O, S), bias (O,) -> (T, O): each output is a weighted sum of the inputs."""
    return x @ weight.T + bias


def split_heads(x: Array, n_head: int) -> Array:
    """Cut the channels into heads that attend independently: (T, S) -> (H, T, D)."""
    return x.reshape(len(x), n_head, -1).transpose(1, 0, 2)


def merge_heads(x: Array) -> Array:
    """Concatenate the heads' channels in order: (H, T, D) -> (T, S)."""
    return x.transpose(1, 0, 2).reshape(x.shape[1], -1)


def scores(q: Array, k: Array) -> Array:
    """The product of every query with every key, (H, T, D) twice -> (H, T, T).

    A sum of D products of size 1 has size sqrt(D); divided by that, softmax starts out soft.
    """
    return q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])


def softmax(scores: Array) -> Array:
    """Positive shares along the last axis that sum to 1: (H, T, T) -> (H, T, T).

    Subtracting the largest score first changes nothing but keeps exp from overflowing.
    """
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def attention(x: Array, w: Weights, n_head: int, tap: Tap) -> Array:
    """Every position gathers from all: past, future and padding alike: (T, S) -> (T, S)."""
    q = tap("q", linear(x, w["q.weight"], w["q.bias"]))
    k = tap("k", linear(x, w["k.weight"]))  # no bias: softmax would cancel it
    v = tap("v", linear(x, w["v.weight"], w["v.bias"]))
    q, k, v = (split_heads(t, n_head) for t in (q, k, v))  # (H, T, D) each
    weights = tap("weights", softmax(tap("scores", scores(q, k))))
    context = tap("context", merge_heads(weights @ v))
    return tap("out", linear(context, w["out.weight"], w["out.bias"]))


def mlp(x: Array, w: Weights, tap: Tap) -> Array:
    """Widen four times, gate, and narrow again, every position by itself: (T, S) -> (T, S)."""
    hidden = tap("fc1", linear(x, w["fc1.weight"], w["fc1.bias"]))  # (T, A)
    return tap("fc2", linear(tap("gelu", gelu(hidden)), w["fc2.weight"], w["fc2.bias"]))


def block(x: Array, w: Weights, n_head: int, tap: Tap) -> Array:
    """Attention, then an MLP; each reads a normed copy of x and adds to x: (T, S) -> (T, S)."""
    normed = tap("attn_ln", layer_norm(x, w["attn_ln.weight"], w["attn_ln.bias"]))
    attended = attention(normed, part(w, "attn."), n_head, under(tap, "attn."))
    x = tap("attn_residual", x + attended)
    normed = tap("mlp_ln", layer_norm(x, w["mlp_ln.weight"], w["mlp_ln.bias"]))
    return tap("mlp_residual", x + mlp(normed, part(w, "mlp."), under(tap, "mlp.")))


def encode(mel: Any, weights: Weights, config: EncoderConfig, tap: Tap = no_tap) -> Array:
    """Features (M, F) of one clip to hidden states (T, S), float64.

    `tap(stage, tensor)` returns what the next stage uses. Fewer frames than 2 n_audio_ctx use the
    first positions. KeyError: a missing weight. Reproduces transformers' WhisperEncoder.
    """
    w = {name: as_float64(tensor) for name, tensor in weights.items()}
    x = as_float64(mel)
    x = tap("conv1", conv1d(x, w["conv1.weight"], w["conv1.bias"], stride=1))  # (S, F)
    x = tap("gelu1", gelu(x))
    x = tap("conv2", conv1d(x, w["conv2.weight"], w["conv2.bias"], stride=2))  # (S, T)
    x = tap("gelu2", gelu(x))
    x = tap("positions", x.T + w["positions"][: x.shape[1]])
    for i in range(config.n_audio_layer):
        x = block(x, part(w, f"blocks.{i}."), config.n_audio_head, under(tap, f"block.{i}."))
    return tap("ln_post", layer_norm(x, w["ln_post.weight"], w["ln_post.bias"]))


def trace(mel: Any, weights: Weights, config: EncoderConfig) -> dict[str, Array]:
    """Every stage of `encode`, name to float64 tensor, in order.

    Exercises. Replace an op. Predict which stage goes wrong first, and which stages after it are
    right again; only then run it, on 1 s of speech and positions for 1 s:

        from dataclasses import replace
        from functools import partial
        from torch.nn import functional
        import melfront
        from melfront import encoder, parity

        config = replace(encoder.SIZES["tiny"], n_audio_layer=2, n_audio_ctx=50)
        model = encoder.WhisperEncoder.from_formula(config)
        audio = melfront.load_audio("sample")[:16_000]
        mel = melfront.log_mel(audio, n_mels=80, pad_to=1.0)

        def biased(*inputs):
            q, k, v = encoder.ops.qkv(*inputs)
            return q, k + 1, v

        with encoder.ops.using(CHANGE):
            stages = encoder.trace(model, mel)
        report = parity.compare(stages, audio=audio, model=model, pad_to=1.0)
        print(report)

    4. CHANGE is `gelu=partial(functional.gelu, approximate="tanh")`, which is never more than
       4.7e-4 off. Is that within the noise?
    5. CHANGE is `qkv=biased`: the keys get a bias, which Whisper's do not have. How far down does
       the error reach?
    6. CHANGE is `attention=partial(functional.scaled_dot_product_attention, is_causal=True)`.
       One position of the first block comes out right: which? And of the second block?

    The answers are in tests/test_exercises.py.
    """
    stages: dict[str, Array] = {}

    def keep(stage: str, tensor: Array) -> Array:
        stages[stage] = tensor
        return tensor

    encode(mel, weights, config, keep)
    return stages


def part(weights: Weights, prefix: str) -> dict[str, Any]:
    """The tensors whose names start with this prefix, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def under(tap: Tap, prefix: str) -> Tap:
    """A tap for a part of the encoder; its stages get this prefix."""
    return lambda stage, tensor: tap(prefix + stage, tensor)


def as_float64(tensor: Any) -> Array:
    """A NumPy array or torch tensor of any float type as float64 NumPy, exactly."""
    if hasattr(tensor, "detach"):  # torch; converted there, because NumPy has no bfloat16
        tensor = tensor.detach().cpu().double().numpy()
    return np.asarray(tensor, dtype=np.float64)
