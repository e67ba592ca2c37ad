"""Whisper's encoder: log-mel features to hidden states.

Two convolutions turn 3000 frames of 10 ms into 1500 positions of 20 ms, a table says which position
is which, and a stack of blocks lets every position look at every other. That is all.

    # B batch  M mel bins  F frames = 3000  T positions = 1500  S state  H heads  D head_dim = S / H

Each result passes through `tap(stage, tensor)`, which returns it. `trace` and the package `parity`
use the same names of stages. `op.` calls a function of `ops.py`, and `parts.` the same function
with a part's weights: `parts.linear(x, self.out)`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from melfront.backends.forks import one_thread_in_forks

from . import built_in, checkpoint, formula, ops, parts
from .config import EncoderConfig

Tap = Callable[[str, Tensor], Tensor]

# The largest float16 is 65504. transformers clamps each block's output 1000 below it, because an
# infinity would turn everything after it into NaN.
FLOAT16_LIMIT = torch.finfo(torch.float16).max - 1000


def no_tap(_stage: str, tensor: Tensor) -> Tensor:
    return tensor


def under(tap: Tap, prefix: str) -> Tap:
    """A tap for a part of the model; its stages get this prefix."""
    return tap if tap is no_tap else lambda stage, tensor: tap(prefix + stage, tensor)


class EncoderOutput(NamedTuple):
    """What the encoder returns; transformers' decoder takes it as `encoder_outputs`.

    So does `generate`, except for beam search. `encoder.for_transformers` puts the encoder itself
    into a model, where every call works.
    """

    last_hidden_state: Tensor  # (B, T, S), normed
    hidden_states: tuple[Tensor, ...] | None = None  # L + 1 of (B, T, S): see WhisperEncoder

    @property
    def shape(self) -> torch.Size:
        """Of last_hidden_state; `generate` looks here for the size of the batch."""
        return self.last_hidden_state.shape


class Attention(nn.Module):
    """Every position compares its query with all keys and gathers the values that match best."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        state = config.n_audio_state
        self.n_head = config.n_audio_head
        self.q = nn.Linear(state, state)
        self.k = nn.Linear(state, state, bias=False)
        self.v = nn.Linear(state, state)
        self.out = nn.Linear(state, state)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, S) -> (B, H, T, D): head h has the channels h D .. h D + D - 1."""
        return x.unflatten(-1, (self.n_head, -1)).transpose(1, 2)

    def forward(self, x: Tensor, tap: Tap = no_tap) -> Tensor:
        op = ops.current()
        q, k, v = parts.qkv(x, self.q, self.k, self.v)  # (B, T, S) each
        q, k, v = tap("q", q), tap("k", k), tap("v", v)
        q, k, v = self.split(q), self.split(k), self.split(v)  # (B, H, T, D) each
        if tap is not no_tap:
            # `attention` never holds these two in full, so a tap gets its own copy.
            tap("weights", op.softmax(tap("scores", op.scores(q, k))))
        context = op.attention(q, k, v)  # (B, H, T, D)
        del q, k, v  # three hidden states' worth of memory
        context = tap("context", context.transpose(1, 2).flatten(2))  # (B, T, S)
        return tap("out", parts.linear(context, self.out))  # (B, T, S)


class MLP(nn.Module):
    """Two linear maps with a GELU between them, for every position by itself."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.n_audio_state, config.n_audio_mlp)
        self.fc2 = nn.Linear(config.n_audio_mlp, config.n_audio_state)

    def forward(self, x: Tensor, tap: Tap = no_tap) -> Tensor:
        op = ops.current()
        if parts.fills("mlp", parts.plain(nn.Linear, self.fc1, self.fc2)):
            if tap is not no_tap:  # the two stages inside `mlp`, computed once more
                tap("gelu", op.gelu(tap("fc1", parts.linear(x, self.fc1))))
            x = op.mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        else:  # a part was replaced or has a hook: call each as a module
            x = tap("gelu", op.gelu(tap("fc1", parts.linear(x, self.fc1))))
            x = parts.linear(x, self.fc2)
        return tap("fc2", x)  # (B, T, S)


class Block(nn.Module):
    """Attention, then an MLP; each reads the normed hidden state and adds its result to it."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attn_ln = nn.LayerNorm(config.n_audio_state, eps=ops.LAYER_NORM_EPS)
        self.attn = Attention(config)
        self.mlp_ln = nn.LayerNorm(config.n_audio_state, eps=ops.LAYER_NORM_EPS)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, tap: Tap = no_tap) -> Tensor:
        normed = tap("attn_ln", parts.layer_norm(x, self.attn_ln))
        x = tap("attn_residual", x + self.attn(normed, under(tap, "attn.")))  # (B, T, S)
        normed = tap("mlp_ln", parts.layer_norm(x, self.mlp_ln))
        x = x + self.mlp(normed, under(tap, "mlp."))  # (B, T, S)
        if x.dtype == torch.float16:
            x = x.clamp(-FLOAT16_LIMIT, FLOAT16_LIMIT)
        return tap("mlp_residual", x)


class WhisperEncoder(nn.Module):
    """The encoder of any Whisper: `out = model(mel)`.

    Parameters have the names of `checkpoint.shapes(config)` and are uninitialised until loaded:
    use `from_pretrained` or `from_formula`. Reproduces transformers' WhisperEncoder and OpenAI's
    AudioEncoder to rounding.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        one_thread_in_forks()
        self.config = config
        state = config.n_audio_state
        self.conv1 = nn.Conv1d(config.n_mels, state, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(state, state, kernel_size=3, stride=2, padding=1)
        # Sines and cosines, frozen (transformers' from_pretrained does not freeze them). The stored
        # table is used: it is up to 1e-4 (float16: 2.4e-4) off the formula in float64.
        self.positions = nn.Parameter(torch.empty(config.n_audio_ctx, state), requires_grad=False)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_audio_layer))
        self.ln_post = nn.LayerNorm(state, eps=ops.LAYER_NORM_EPS)

    def forward(
        self,
        mel: Tensor | np.ndarray[Any, Any],
        *,
        output_hidden_states: bool = False,
        strict_length: bool = True,
        tap: Tap = no_tap,
    ) -> EncoderOutput:
        """Features to hidden states.

        mel: (M, F) or (B, M, F), F = 2 n_audio_ctx = 3000; a tensor of the model's dtype and
            device, or a NumPy array, which is converted to them.
        output_hidden_states: also return transformers' hidden states, L + 1 tensors: the input of
            every block and, last, the *normed* output. The last block's output before that norm is
            not among them; `encoder.trace` has it.
        strict_length: False accepts fewer frames and uses that many positions. transformers pads
            to 30 s instead, and Whisper was not trained on shorter input.

        Returns EncoderOutput, tensors (B, T, S) of the model's dtype. Raises ValueError for a wrong
        shape, TypeError for a wrong dtype or device.
        """
        x = self.stem(self.check(mel, strict_length), tap)  # (B, T, S)
        hidden_states = []
        for i, block in enumerate(self.blocks):
            if output_hidden_states:
                hidden_states.append(x)
            x = block(x, under(tap, f"block.{i}."))
        x = tap("ln_post", parts.layer_norm(x, self.ln_post))
        return EncoderOutput(x, (*hidden_states, x) if output_hidden_states else None)

    def stem(self, x: Tensor, tap: Tap = no_tap) -> Tensor:
        """Both convolutions, then the positions: features (B, M, F) -> hidden state (B, T, S)."""
        op = ops.current()
        x = tap("conv1", parts.conv1d(x, self.conv1))  # (B, S, F)
        x = tap("gelu1", op.gelu(x))
        x = tap("conv2", parts.conv1d(x, self.conv2))  # (B, S, T)
        x = tap("gelu2", op.gelu(x))
        x = x.transpose(1, 2)  # (B, T, S)
        return tap("positions", x + self.positions[: x.shape[1]])

    def check(self, mel: Tensor | np.ndarray[Any, Any], strict_length: bool) -> Tensor:
        """The features as a batch (B, M, F), or ValueError or TypeError with what to do instead."""
        # `positions` is on the device that computes, even where other weights are offloaded.
        config, weight = self.config, self.positions
        if isinstance(mel, np.ndarray):  # torch cannot take a foreign byte order or negative stride
            mel = torch.from_numpy(mel.astype(mel.dtype.newbyteorder("="), order="C")).to(weight)
        if not isinstance(mel, Tensor):
            raise TypeError(f"features are a {type(mel).__name__}; pass a tensor or a NumPy array")
        if mel.ndim not in (2, 3) or mel.shape[-2] != config.n_mels:
            raise ValueError(
                f"features of shape {tuple(mel.shape)}; this encoder takes ({config.n_mels}, "
                f"{config.n_frames}) or (B, {config.n_mels}, {config.n_frames}): "
                f"melfront.log_mel(audio, n_mels={config.n_mels})"
            )
        n_frames = mel.shape[-1]
        fits = 0 < n_frames <= config.n_frames
        if not fits or (strict_length and n_frames != config.n_frames):
            raise ValueError(
                f"features of {n_frames} frames; this encoder takes {config.n_frames} "
                f"({config.n_frames / 100:g} s). Pad the audio to it (pad_to of melfront.log_mel), "
                "or pass strict_length=False for a shorter clip"
            )
        if mel.dtype != weight.dtype or mel.device != weight.device:
            raise TypeError(
                f"features are {mel.dtype} on {mel.device}, the encoder is {weight.dtype} on "
                f"{weight.device}; pass mel.to({str(weight.device)!r}, {weight.dtype})"
            )
        return mel if mel.ndim == 3 else mel[None]

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        **options: Any,
    ) -> WhisperEncoder:
        """The encoder of a checkpoint; only the encoder's tensors are read.

        name_or_path: a local folder, a file, or a name on the Hugging Face Hub, looked up in the
            local cache first; or "formula:tiny" and the like, without a download (`built_in.py`).
        dtype, device: of the weights, and so of the features that `forward` takes.
        options: those of `checkpoint.load`.

        Raises CheckpointError (a ValueError) for a checkpoint that cannot be read or does not fit.
        """
        name = os.fspath(name_or_path)
        if name.startswith(built_in.PREFIX):
            return cls.from_weights(*built_in.load(name, dtype, device))
        return cls.from_weights(*checkpoint.load(name, dtype=dtype, device=device, **options))

    @classmethod
    def from_formula(
        cls,
        config: EncoderConfig,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> WhisperEncoder:
        """An encoder of these dimensions whose weights come from `formula.py`: no download."""
        return cls.from_weights(config, formula.weights(config, dtype, device))

    @classmethod
    def from_weights(cls, config: EncoderConfig, weights: dict[str, Tensor]) -> WhisperEncoder:
        """An encoder that holds these tensors without copying them, in eval mode.

        weights: names and shapes of `checkpoint.shapes(config)`. Raises RuntimeError where they
            do not fit, as load_state_dict does.
        """
        with torch.device("meta"):  # allocates nothing that the weights would replace
            model = cls(config)
        model.load_state_dict(weights, assign=True)
        model.positions.requires_grad_(False)
        return model.eval()


@torch.no_grad()
def trace(
    model: WhisperEncoder, mel: Tensor | np.ndarray[Any, Any], **options: Any
) -> dict[str, Tensor]:
    """Every stage of `model(mel, **options)`, name to tensor, in order; `ln_post` is the result.

    mel, options: what `WhisperEncoder.forward` takes; it raises the same errors.
    The tensors have the model's dtype and the bits that `model(mel)` computes. They include the
    attention scores and weights (B, H, T, T), which at 1500 positions take most of the memory.
    """
    stages: dict[str, Tensor] = {}

    model(mel, tap=stages.setdefault, **options)  # which returns what it keeps
    return stages
