"""block(x, attn_ln_weight, attn_ln_bias, q_weight, q_bias, k_weight, v_weight, v_bias, out_weight,
out_bias, mlp_ln_weight, mlp_ln_bias, fc1_weight, fc1_bias, fc2_weight, fc2_bias, n_head)

Attention and the MLP, each on a normed copy, each added to its input.

x (B, T, S), fc1_weight (A, S) -> (B, T, S); the weights as in layer_norm, qkv, linear and mlp
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from melfront.encoder import EncoderConfig, WhisperEncoder, oracle
from melfront.encoder.model import Block

from ..base import Array, Function, Slot
from ..inputs import HEAD_DIM, Case, Dice, sizes, strided

# In the order in which they are passed, under the names of `encoder/oracle.py`.
WEIGHTS = [
    *("attn_ln.weight", "attn_ln.bias", "attn.q.weight", "attn.q.bias", "attn.k.weight"),
    *("attn.v.weight", "attn.v.bias", "attn.out.weight", "attn.out.bias"),
    *("mlp_ln.weight", "mlp_ln.bias", "mlp.fc1.weight", "mlp.fc1.bias"),
    *("mlp.fc2.weight", "mlp.fc2.bias"),
]


def block(x: Tensor, *weights_and_heads: Any) -> Tensor:
    """`encoder.model.Block` with these weights."""
    *weights, n_head = weights_and_heads
    state, inner = x.shape[-1], weights[WEIGHTS.index("mlp.fc1.weight")].shape[0]
    with torch.device("meta"):
        layer = Block(EncoderConfig(80, x.shape[1], state, n_head, 1, inner))
    layer.load_state_dict(dict(zip(WEIGHTS, weights, strict=True)), assign=True)
    with torch.no_grad():
        return layer(x)


def truth(x: Array, *weights_and_heads: Any) -> Array:
    *weights, n_head = weights_and_heads
    named = dict(zip(WEIGHTS, weights, strict=True))
    return np.stack([oracle.block(item, named, n_head, oracle.no_tap) for item in x])


def flops(x: Tensor, *weights_and_heads: Any) -> float:
    b, t, s = x.shape
    inner = weights_and_heads[WEIGHTS.index("mlp.fc1.weight")].shape[0]
    return b * t * (8.0 * s * s + 4 * s * inner + 4 * t * s)


def edges(dice: Dice) -> list[Case]:
    b, t, _ = sizes(dice)
    s = dice.size("S", HEAD_DIM * dice.size("n_head", 3))
    heads = dice.size("n_head", max(1, s // HEAD_DIM))
    if s % heads:
        return []  # there is no such block
    dice.room(heads, t, t)  # for the scores of the truth
    norm = (dice.normal(s, mean=1.5, std=0.3), dice.normal(s))
    (wq, bq), (wk, _), (wv, bv), out = (dice.linear(s, s) for _ in range(4))
    a = dice.size("A", 397, 401, 409)
    mlp = (*dice.linear(a, s), *dice.linear(s, a))
    weights = (*norm, wq, bq, wk, wv, bv, *out, *norm, *mlp, heads)
    x = dice.normal(b, t, s)
    return [
        Case("prime size", (x, *weights)),
        Case("large values", (100 * x, *weights)),
        Case("non-contiguous", (strided(x), *weights)),
    ]


def fill(model: WhisperEncoder, kernel: Function) -> dict[str, Function]:
    """The model calls no op for a block, which is a module: give it another `forward`."""
    for layer in model.blocks:
        weights = [layer.state_dict()[name] for name in WEIGHTS]
        fixed = (*weights, model.config.n_audio_head)
        vars(layer)["forward"] = lambda x, _tap, fixed=fixed: kernel(x, *fixed)
    return {}


SLOT = Slot(__name__, __doc__, block, truth, flops, edges, weights=len(WEIGHTS), fill=fill)
