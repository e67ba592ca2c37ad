"""Our encoder inside a model of openai-whisper.

Every part of their encoder stays where it is, with its name and weights, so `state_dict`, `to`,
hooks and adapters work as before; only its class changes, to ours.

    # B batch  M mel bins  F frames  T positions  S state
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from ..config import EncoderConfig
from ..model import MLP, Attention, Block, Tap, WhisperEncoder, no_tap


def for_openai(model: Any) -> Any:
    """Put our encoder into a model of openai-whisper, in place, and return the model.

    model: a `whisper.model.Whisper`, as `whisper.load_model` returns it, of any dtype and on any
        device.

    Its `transcribe`, `decode`, `detect_language` and `embed_audio`, with word timestamps or
    without, then run our encoder, and `encoder.ops.using` takes effect. No weight is copied, and
    `state_dict` keeps openai-whisper's names. Features may be of another dtype than the weights,
    which are then cast in each call. So does openai-whisper, but its layer norms stay in float32.
    Raises TypeError for anything but a Whisper model, ImportError without openai-whisper.
    """
    try:
        import whisper.model as theirs
    except ModuleNotFoundError as error:
        raise ImportError("for_openai needs whisper: pip install openai-whisper") from error
    if not isinstance(model, theirs.Whisper):
        raise TypeError(
            f"for_openai: given a {type(model).__module__}.{type(model).__qualname__}, expected a "
            "whisper.model.Whisper; pass what whisper.load_model returns"
        )
    # A class that is not in the table is an adapter or a quantised part: it is called as a module.
    ours: dict[type[nn.Module], type[nn.Module]] = {
        theirs.AudioEncoder: OpenAIEncoder,
        theirs.ResidualAttentionBlock: OpenAIBlock,
        theirs.MultiHeadAttention: OpenAIAttention,
        theirs.Linear: nn.Linear,
        theirs.LayerNorm: nn.LayerNorm,
        theirs.Conv1d: nn.Conv1d,
    }
    for part in model.encoder.modules():
        part.__class__ = ours.get(type(part), type(part))
    for block in model.encoder.blocks:
        block.mlp.__class__ = OpenAIMLP
    model.encoder.config = EncoderConfig.from_openai(vars(model.dims))
    return model


class OpenAIAttention(Attention):
    """Attention, with openai-whisper's names of its parts."""

    q = property(lambda self: self.query)
    k = property(lambda self: self.key)
    v = property(lambda self: self.value)


class OpenAIMLP(MLP, nn.Sequential):
    """An MLP whose parts are, as in openai-whisper, those of a Sequential: fc1, GELU, fc2."""

    fc1 = property(lambda self: self[0])
    fc2 = property(lambda self: self[2])


class OpenAIBlock(Block):
    """A block that computes in the dtype of its input."""

    def forward(self, x: Tensor, tap: Tap = no_tap) -> Tensor:
        if cast := {name: weight.to(x.dtype) for name, weight in others(self, x)}:
            return functional_call(self, cast, (x, tap))
        return super().forward(x, tap)


class OpenAIEncoder(WhisperEncoder):
    """The encoder, which computes in the dtype of its features and returns a tensor."""

    positions = property(lambda self: self.positional_embedding)

    def forward(self, mel: Any, **options: Any) -> Any:
        """Features (B, M, F) to hidden states (B, T, S); options are those of WhisperEncoder."""
        if isinstance(mel, Tensor) and mel.is_floating_point():
            # A block casts its own, so that only one block's weights are there twice.
            outside = [(n, w) for n, w in others(self, mel) if not n.startswith("blocks.")]
            if cast := {name: weight.to(mel.dtype) for name, weight in outside}:
                return functional_call(self, cast, (mel,), options)
        return super().forward(mel, **options).last_hidden_state


def others(part: nn.Module, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The floating-point weights that are not of x's dtype, by name."""
    for name, weight in chain(part.named_parameters(), part.named_buffers()):
        if weight.is_floating_point() and weight.dtype != x.dtype:
            yield name, weight
