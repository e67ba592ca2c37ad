"""Our encoder inside transformers' Whisper models.

    model = encoder.for_transformers("openai/whisper-large-v3")  # or a model that you have loaded

The modules, their names and their weights stay transformers' own; what they compute becomes ours.
So whatever works on the modules - saving, adapters, freezing, checkpointing, offloading - works as
before, and `encoder.ops.using` works inside.

    # B batch  M mel bins  F frames  T positions  S state  H heads  D head_dim = S / H
"""

from __future__ import annotations

import os
from types import MethodType
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper import modeling_whisper

from .. import model as ours
from .. import ops, parts


class WhisperAttention(modeling_whisper.WhisperAttention):
    """As `encoder.model.Attention`, and gives its weights to who asks for them."""

    def forward(
        self, hidden_states: Tensor, output_attentions: bool = False, **_kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        op = ops.current()
        qkv = parts.qkv(hidden_states, self.q_proj, self.k_proj, self.v_proj)  # (B, T, S) each
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in qkv)
        dropout = self.dropout if self.training else 0.0
        # As they were loaded: eager attention rounds otherwise than sdpa, which is ours.
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
        **_kwargs: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        x = hidden_states
        normed = parts.layer_norm(x, self.self_attn_layer_norm)
        attended, weights = self.self_attn(normed, output_attentions=output_attentions)
        x = x + functional.dropout(attended, self.dropout, self.training)  # (B, T, S)
        normed = parts.layer_norm(x, self.final_layer_norm)
        processed = self.feed_forward(normed)
        x = x + functional.dropout(processed, self.dropout, self.training)  # (B, T, S)
        if x.dtype == torch.float16:
            x = x.clamp(-ours.FLOAT16_LIMIT, ours.FLOAT16_LIMIT)
        return (x, weights) if output_attentions else x

    def feed_forward(self, x: Tensor) -> Tensor:
        op = ops.current()
        dropout = self.activation_dropout if self.training else 0.0
        # Our `mlp` takes the positions in pieces, and so adds up the gradients of its weights in
        # another order than transformers does.
        pieces = self.training and op.mlp is ops.mlp
        if parts.fills("mlp", dropout == 0) and not pieces:
            return ours.MLP.forward(self, x)  # fc1 and fc2 are the layer's own
        x = functional.dropout(op.gelu(parts.linear(x, self.fc1)), dropout)
        return parts.linear(x, self.fc2)


class WhisperEncoder(modeling_whisper.WhisperEncoder):
    """As `encoder.WhisperEncoder`, with the arguments and results of transformers'."""

    stem = ours.WhisperEncoder.stem

    @property
    def positions(self) -> Tensor:
        """(T, S); by a call of the module, which a library may have changed."""
        every = torch.arange(self.max_source_positions, device=self.embed_positions.weight.device)
        return self.embed_positions(every)

    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,  # generate() passes all that it has where there is one of this name
    ) -> BaseModelOutput | tuple[Any, ...]:
        config = self.config
        if output_attentions is None:
            output_attentions = config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        n_frames = 2 * config.max_source_positions
        if input_features.shape[-1] != n_frames:
            raise ValueError(
                f"features of {input_features.shape[-1]} frames; this encoder takes {n_frames}: "
                "pad the audio to it, as WhisperFeatureExtractor does by default"
            )
        x = functional.dropout(self.stem(input_features), self.dropout, self.training)  # (B, T, S)
        n_layer = len(self.layers)
        wanted = selected(output_hidden_states, n_layer + 1)
        hidden_states, attentions = [], []
        for i, layer in enumerate(self.layers):
            hidden_states.append(x if i in wanted else None)
            if self.training and self.layerdrop > 0 and torch.rand([]) < self.layerdrop:
                continue
            x = layer(x, None, output_attentions=output_attentions)
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
        if return_dict is None:
            return_dict = config.return_dict
        return out if return_dict else out.to_tuple()


def selected(which: bool | int | list[int], n: int) -> set[int]:
    """The hidden states to keep of n: all, none, or these, counted from the end if negative."""
    if isinstance(which, bool):
        return set(range(n)) if which else set()
    return {i % n for i in ([which] if isinstance(which, int) else which) if -n <= i < n}


def for_transformers(model: Any, **options: Any) -> Any:
    """A Whisper model of transformers in which our encoder computes.

    model: a WhisperForConditionalGeneration, WhisperModel, WhisperForAudioClassification or
        WhisperEncoder of transformers, or a module that contains one, such as PEFT's. It is
        changed in place: the classes of its encoder's modules become those of this file. Or a
        folder or a name on the Hugging Face Hub, from which transformers loads the model.
    options: for a folder or name, those of transformers' `from_pretrained`.

    Returns the model; a second call changes nothing. Its parameters, their dtype, device and names
    stay the same, so `save_pretrained` writes what transformers alone reads. Attention is the slot
    `attention`; it is `scores` and `softmax` with `output_attentions=True`, attention dropout, or
    `attn_implementation="eager"` where the slot is not filled.

    Raises TypeError for what contains no Whisper encoder of transformers, or one whose classes were
    replaced, and ValueError for an activation other than GELU and for a checkpoint of another
    model; for one that cannot be read, what transformers raises.
    """
    if not isinstance(model, nn.Module):
        model = load(os.fspath(model), **options)
    elif options:
        raise TypeError(f"{', '.join(options)}: options of loading; this model is loaded already")
    encoders = [m for m in model.modules() if isinstance(m, modeling_whisper.WhisperEncoder)]
    if not encoders:
        raise TypeError(
            f"{type(model).__name__} contains no Whisper encoder of transformers; pass a "
            "WhisperForConditionalGeneration, WhisperModel or WhisperForAudioClassification"
        )
    for encoder in encoders:
        install(encoder)
    return model


def load(name: str, **options: Any) -> nn.Module:
    config = transformers.AutoConfig.from_pretrained(name)
    kind = (config.architectures or ["WhisperForConditionalGeneration"])[0]
    if config.model_type != "whisper" or not hasattr(modeling_whisper, kind):
        raise ValueError(f"{name} is a {kind} ({config.model_type}); expected a Whisper model")
    return getattr(modeling_whisper, kind).from_pretrained(name, **options)


def install(encoder: Any) -> None:
    """Replace the classes of an encoder's modules; all of them, or none and an error."""
    activation = encoder.config.activation_function
    if activation != "gelu":
        raise ValueError(f"activation_function is {activation}; our encoder computes gelu only")
    kinds: list[tuple[Any, Any]] = [(encoder, WhisperEncoder)]
    for layer in encoder.layers:
        kinds += [(layer, WhisperEncoderLayer), (layer.self_attn, WhisperAttention)]
    for module, kind in kinds:
        hooked = hasattr(module, "_old_forward")  # accelerate's, in a model that it dispatched
        if type(module) not in (kind, kind.__base__) or ("forward" in vars(module) and not hooked):
            raise TypeError(
                f"the encoder's {kind.__name__} is a {type(module).__qualname__} or has another "
                "forward; pass the model as transformers loads it, and change it afterwards"
            )
    for module, kind in kinds:
        module.__class__ = kind
        if hasattr(module, "_old_forward"):
            module._old_forward = MethodType(kind.forward, module)
