"""block(x, attn_ln_weight, attn_ln_bias, q_weight, q_bias, k_weight, v_weight, v_bias, out_weight,
out_bias, mlp_ln_weight, mlp_ln_bias, fc1_weight, fc1_bias, fc2_weight, fc2_bias, n_head)

Attention and the MLP, each on a normed copy, each added to its input.

x (B, T, S) -> (B, T, S); the weights as in layer_norm, qkv, linear and mlp
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from melfront.encoder import EncoderConfig, WhisperEncoder, oracle
from melfront.encoder.model import Block

from ..base import Array, Call, Function, Slot, f64
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


def truth(x: Tensor, *weights_and_heads: Any) -> Array:
    *weights, n_head = weights_and_heads
    named = {name: f64(w) for name, w in zip(WEIGHTS, weights, strict=True)}
    return np.stack([oracle.block(item, named, n_head, oracle.no_tap) for item in f64(x)])


def flops(x: Tensor, *weights_and_heads: Any) -> float:
    b, t, s = x.shape
    inner = weights_and_heads[WEIGHTS.index("mlp.fc1.weight")].shape[0]
    return b * t * (8.0 * s * s + 4 * s * inner + 4 * t * s)


def edges(dice: Dice) -> list[Case]:
    b, t, _ = sizes(dice)
    heads = 3
    s = heads * HEAD_DIM
    norm = (dice.normal(s, mean=1.5, std=0.3), dice.normal(s))
    maps = [
        (dice.normal(o, i, std=i**-0.5), dice.normal(o))
        for o, i in [(s, s)] * 4 + [(401, s), (s, 401)]
    ]
    (wq, bq), (wk, _), (wv, bv), (wo, bo), (w1, b1), (w2, b2) = maps
    weights = (*norm, wq, bq, wk, wv, bv, wo, bo, *norm, w1, b1, w2, b2, heads)
    x = dice.normal(b, t, s)
    return [
        Case("prime size", (x, *weights)),
        Case("large values", (100 * x, *weights)),
        Case("non-contiguous", (strided(x), *weights)),
    ]


def calls(encoder: WhisperEncoder, features: Tensor) -> list[Call]:
    """The model calls no op for a block: it is a module, so a hook watches it."""
    seen: list[Call] = []
    hooks = []
    for layer in encoder.blocks:
        weights = layer.state_dict()
        fixed = (*(weights[name] for name in WEIGHTS), encoder.config.n_audio_head)
        hooks.append(
            layer.register_forward_pre_hook(
                lambda _m, args, fixed=fixed: seen.append(((args[0], *fixed), {}))
            )
        )
    with torch.no_grad():
        encoder(features)
    for hook in hooks:
        hook.remove()
    return seen


class KernelBlock(nn.Module):
    """A block that is computed by a kernel."""

    def __init__(self, layer: nn.Module, kernel: Function, n_head: int) -> None:
        super().__init__()
        self.weights = [layer.state_dict()[name] for name in WEIGHTS]
        self.kernel, self.n_head = kernel, n_head

    def forward(self, x: Tensor, _tap: Any = None) -> Tensor:
        out: Tensor = self.kernel(x, *self.weights, self.n_head)
        return out


def fill(model: WhisperEncoder, kernel: Function) -> dict[str, Function]:
    """Give this model blocks that call the kernel."""
    n_head = model.config.n_audio_head
    model.blocks = nn.ModuleList(KernelBlock(layer, kernel, n_head) for layer in model.blocks)
    return {}


SLOT = Slot(__name__, __doc__, block, truth, flops, edges, calls=calls, fill=fill)
