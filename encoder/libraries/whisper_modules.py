"""transformers' Whisper encoder, its layers and their attention, computed by our functions.

`for_transformers` in `hugging_face.py` gives these classes to the modules of a model; their
parameters and submodules stay as transformers built them. It imports this file when it is called,
since this file needs transformers.

    # B batch  M mel bins  F frames  T positions  S state  H heads  D head_dim = S / H
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper import modeling_whisper

from .. import model as ours
from .. import ops, parts


class WhisperAttention(modeling_whisper.WhisperAttention):
    """As `encoder.model.Attention`, and returns the weights too where they are asked for."""

    def forward(
        self, hidden_states: Tensor, output_attentions: bool = False, **_kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        op = ops.current()
        qkv = parts.qkv(hidden_states, self.q_proj, self.k_proj, self.v_proj)  # (B, T, S) each
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in qkv)
        dropout = self.dropout if self.training else 0.0
        # "sdpa" is what our function computes, and "eager" rounds otherwise.
        eager = self.config._attn_implementation == "eager" and op.attention is ops.attention
        weights = None
        if parts.fills("attention", not (output_attentions or dropout > 0)) and not eager:
            context = op.attention(q, k, v)  # (B, H, T, D)
        else:  # the weights in full, and in the graph
            weights = functional.dropout(op.softmax(op.scores(q, k)), dropout)  # (B, H, T, T)
            context = weights @ v  # (B, H, T, D)
        context = context.transpose(1, 2).flatten(2)  # (B, T, S)
        return parts.linear(context, self.out_proj), weights


class WhisperEncoderLayer(modeling_whisper.WhisperEncoderLayer):
    """As `encoder.model.Block`, with dropout where transformers has it."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        functions: dict[str, Callable[..., Any]] | None = None,
        **_kwargs: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        with ops.using(**functions) if functions else nullcontext():
            return self.block(hidden_states, output_attentions)

    def block(self, x: Tensor, output_attentions: bool) -> Tensor | tuple[Tensor, Tensor]:
        normed = parts.layer_norm(x, self.self_attn_layer_norm)
        out, weights = self.self_attn(normed, output_attentions=output_attentions)
        x = x + functional.dropout(out, self.dropout, self.training)  # (B, T, S)
        out = self.mlp(parts.layer_norm(x, self.final_layer_norm))
        x = x + functional.dropout(out, self.dropout, self.training)  # (B, T, S)
        if x.dtype == torch.float16:
            x = x.clamp(-ours.FLOAT16_LIMIT, ours.FLOAT16_LIMIT)
        return (x, weights) if output_attentions else x

    def mlp(self, x: Tensor) -> Tensor:
        op = ops.current()
        dropout = self.activation_dropout if self.training else 0.0
        # Our `mlp` takes the positions in pieces, and so would add up the gradients of its weights
        # in another order than transformers does.
        in_pieces = self.training and op.mlp is ops.mlp
        if parts.fills("mlp", dropout == 0) and not in_pieces:
            return ours.MLP.forward(self, x)  # fc1 and fc2 are the layer's own
        x = functional.dropout(op.gelu(parts.linear(x, self.fc1)), dropout)
        return parts.linear(x, self.fc2)


class TransformersEncoder(modeling_whisper.WhisperEncoder):
    """As `encoder.WhisperEncoder`, with the arguments and the result of transformers'."""

    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,  # by this name, `generate` knows that it may pass whatever it has
    ) -> BaseModelOutput | tuple[Any, ...]:
        config = self.config
        if output_attentions is None:
            output_attentions = config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        n_frames = 2 * self.max_source_positions
        if input_features.shape[-1] != n_frames:
            raise ValueError(
                f"features of {input_features.shape[-1]} frames; this encoder takes {n_frames}: "
                "pad the audio to it, as WhisperFeatureExtractor does by default"
            )
        functions = None
        if self.gradient_checkpointing and ops.current() is not ops.OURS:
            # For the second run of a layer, in backward: that may be another thread's.
            functions = vars(ops.current())
        x = functional.dropout(self.stem(input_features), self.dropout, self.training)
        n_layer = len(self.layers)
        wanted = selected(output_hidden_states, n_layer + 1)
        hidden_states, attentions = [], []
        for i, layer in enumerate(self.layers):
            hidden_states.append(x if i in wanted else None)
            if self.training and self.layerdrop > 0 and torch.rand([]) < self.layerdrop:
                continue
            x = layer(x, None, output_attentions=output_attentions, functions=functions)
            if output_attentions:
                x, weights = x
                attentions.append(weights)
        x = parts.layer_norm(x, self.layer_norm)
        hidden_states.append(x if n_layer in wanted else None)
        out = BaseModelOutput(
            last_hidden_state=x,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )
        as_dict = config.return_dict if return_dict is None else return_dict
        return out if as_dict else out.to_tuple()

    def stem(self, x: Tensor) -> Tensor:
        """As ours; the positions come from a call of their module, which may have a hook."""
        op = ops.current()
        x = op.gelu(parts.conv1d(x, self.conv1))  # (B, S, F)
        x = op.gelu(parts.conv1d(x, self.conv2))  # (B, S, T)
        x = x.transpose(1, 2)  # (B, T, S)
        return x + self.embed_positions(torch.arange(self.max_source_positions, device=x.device))


TransformersEncoder.__name__ = "WhisperEncoder"  # `save_pretrained` writes it as the architecture


def selected(which: bool | int | list[int], n: int) -> set[int]:
    """The hidden states to keep of n: all, none, or these, counted from the end if negative."""
    if isinstance(which, bool):
        return set(range(n)) if which else set()
    return {i % n for i in ([which] if isinstance(which, int) else which) if -n <= i < n}
