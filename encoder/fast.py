"""The encoder for inference on a CPU: `model.py`'s numbers to rounding, in less time and memory.

What is done differently, and why:

- GELU and the residual are computed where the numbers lie, and clips are taken one after the other:
  memory that is new has to be mapped page by page, which took a tenth of the time.
- The MLP's inside, four times as wide as the rest, is made for some hundred positions at a time.

`WhisperEncoder.forward` comes here whenever nobody can tell the difference: no gradients, no tap,
no hook, no part and no kernel of somebody else's.

    # M mel bins  F frames  T positions  S state  H heads  D head_dim  C positions at a time
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import ops, parts

if TYPE_CHECKING:
    from .model import Block, WhisperEncoder

ROWS = 500  # positions that the MLP takes at a time: of large-v3 10 MB instead of 31


def applies(model: WhisperEncoder, mel: Tensor) -> bool:
    """Would `forward` here give what the model's own steps give?"""
    return (
        type(mel) is Tensor
        and mel.device.type == "cpu"
        and mel.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]  # public, but not in __all__
        and ops.current() == ops.OURS
        # Hooks on the model itself run either way.
        and parts.plain(nn.Conv1d, model.conv1, model.conv2)
        and (model.conv1.stride, model.conv2.stride) == ((1,), (2,))
        and parts.plain(nn.LayerNorm, model.ln_post)
        and all(plain_block(block) for block in model.blocks)
    )


def plain_block(block: Any) -> bool:
    if not (parts.as_built(block) and parts.as_built(block.attn) and parts.as_built(block.mlp)):
        return False
    attn, mlp = block.attn, block.mlp
    return parts.plain(nn.LayerNorm, block.attn_ln, block.mlp_ln) and parts.plain(
        nn.Linear, attn.q, attn.k, attn.v, attn.out, mlp.fc1, mlp.fc2
    )


def stem(model: WhisperEncoder, mel: Tensor, out: Tensor) -> None:
    """Both convolutions and the positions, of one clip: mel (M, F) -> out (T, S)."""
    x = functional.conv1d(mel[None], model.conv1.weight, model.conv1.bias, padding=1)  # (1, S, F)
    torch.ops.aten.gelu_(x)
    x = functional.conv1d(x, model.conv2.weight, model.conv2.bias, stride=2, padding=1)  # (1, S, T)
    torch.ops.aten.gelu_(x)
    torch.add(x[0].mT, model.positions[: len(out)], out=out)


def add_block(x: Tensor, block: Block) -> None:
    """What a block adds to the hidden state of one clip, added to x (T, S) where it lies."""
    attn, mlp = block.attn, block.mlp
    y = ops.layer_norm(x, block.attn_ln.weight, block.attn_ln.bias)  # (T, S)
    q, k, v = (  # (1, H, T, D) each
        attn.split(functional.linear(y, part.weight, part.bias)[None])
        for part in (attn.q, attn.k, attn.v)
    )
    context = ops.attention(q, k, v)  # (1, H, T, D)
    del q, k, v
    context = context.transpose(1, 2).flatten(2)[0]  # (T, S)
    x.add_(functional.linear(context, attn.out.weight, attn.out.bias))
    del context
    for rows in x.split(ROWS):  # (C, S)
        y = ops.layer_norm(rows, block.mlp_ln.weight, block.mlp_ln.bias)
        inner = functional.linear(y, mlp.fc1.weight, mlp.fc1.bias)  # (C, 4 S)
        torch.ops.aten.gelu_(inner)
        rows.add_(functional.linear(inner, mlp.fc2.weight, mlp.fc2.bias))


def forward(model: WhisperEncoder, mel: Tensor, keep: bool) -> tuple[Tensor, list[Tensor]]:
    """Checked features (B, M, F) to the last hidden state (B, T, S); keep: each block's input too.

    Returns it and the list of those, empty without keep; nothing that is returned shares memory.
    """
    n_clips, n_positions = len(mel), (mel.shape[2] + 1) // 2
    last = mel.new_empty(n_clips, n_positions, model.config.n_audio_state)  # (B, T, S)
    states = [torch.empty_like(last) for _ in model.blocks] if keep else []
    for i, features in enumerate(mel):
        x = last[i]  # (T, S)
        stem(model, features, x)
        for l, block in enumerate(model.blocks):
            if keep:
                states[l][i] = x
            add_block(x, cast("Block", block))
        x.copy_(ops.layer_norm(x, model.ln_post.weight, model.ln_post.bias))
    return last, states
