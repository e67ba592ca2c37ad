"""Whisper's encoder: log-mel features to hidden states.

Two convolutions turn 3000 frames of 10 ms into 1500 positions of 20 ms, a table says which position
is which, and a stack of blocks lets every position look at every other. That is all.

    # B batch  M mel bins  F frames = 3000  T positions = 1500  S state  H heads  D head_dim = S / H

Each result passes through `tap(stage, tensor)`, which returns it: the name is the stage's name in
`trace` and in the package `parity`. Read `op.` as the function of that name in `ops.py`, and
`parts.` as the same with the weights of a part: `parts.linear(x, self.out)`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from . import built_in, checkpoint, fast, formula, ops, parts
from .config import EncoderConfig

Tap = Callable[[str, Tensor], Tensor]

# float16 ends at 65504. transformers keeps each block's output 1000 short of it, because an
# infinity there would make everything after it NaN.
FLOAT16_LIMIT = torch.finfo(torch.float16).max - 1000


def no_tap(_stage: str, tensor: Tensor) -> Tensor:
    return tensor


def under(tap: Tap, prefix: str) -> Tap:
    """A tap for a part of the model, whose stages have this prefix."""
    return tap if tap is no_tap else lambda stage, tensor: tap(prefix + stage, tensor)


class EncoderOutput(NamedTuple):
    """What the encoder returns; transformers' decoder takes it as `encoder_outputs`.

    So does its `generate`, but for beam search, which wants `BaseModelOutput(*out)`.
    """

    last_hidden_state: Tensor  # (B, T, S), normed
    hidden_states: tuple[Tensor, ...] | None = None  # L + 1 of (B, T, S): see WhisperEncoder

    @property
    def shape(self) -> torch.Size:
        """Of last_hidden_state; `generate` looks here for the size of the batch."""
        return self.last_hidden_state.shape


class Attention(nn.Module):
    """Every position asks (q) all positions (k), and gathers (v) from those that answer."""

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
            # `attention` never holds these two whole: for who wants them they are made beside it.
            tap("weights", op.softmax(tap("scores", op.scores(q, k))))
        context = op.attention(q, k, v)  # (B, H, T, D)
        context = tap("context", context.transpose(1, 2).flatten(2))  # (B, T, S)
        return tap("out", parts.linear(context, self.out))  # (B, T, S)


class MLP(nn.Module):
    """What a position makes of what it has gathered, each for itself."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.n_audio_state, config.n_audio_mlp)
        self.fc2 = nn.Linear(config.n_audio_mlp, config.n_audio_state)

    def forward(self, x: Tensor, tap: Tap = no_tap) -> Tensor:
        op = ops.current()
        if parts.fills("mlp", parts.plain(nn.Linear, self.fc1, self.fc2)):
            if tap is not no_tap:  # the two stages inside `mlp`, made beside it
                tap("gelu", op.gelu(tap("fc1", parts.linear(x, self.fc1))))
            x = op.mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        else:  # the same, part by part
            x = tap("gelu", op.gelu(tap("fc1", parts.linear(x, self.fc1))))
            x = parts.linear(x, self.fc2)
        return tap("fc2", x)  # (B, T, S)


class Block(nn.Module):
    """Attention and an MLP, each on the normed input, each added to what was there before."""

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


# By these `fast.py` knows our own classes.
# The `forward` that each was written with, to tell when somebody has replaced it.
parts.FORWARD |= {kind: kind.forward for kind in (Attention, MLP, Block)}


class WhisperEncoder(nn.Module):
    """The encoder of any Whisper: `out = model(mel)`.

    Parameters bear the names of `checkpoint.shapes(config)`, and are uninitialised until loaded:
    use `from_pretrained` or `from_formula`. Reproduces transformers' WhisperEncoder, whose
    numbers are the same to rounding, and OpenAI's AudioEncoder.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        state = config.n_audio_state
        self.conv1 = nn.Conv1d(config.n_mels, state, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(state, state, kernel_size=3, stride=2, padding=1)
        # Sines and cosines, frozen; not so in what transformers' from_pretrained loads. Stored ones
        # are kept: in float32 up to 1e-4 from the formula in float64, in float16 up to 2.4e-4.
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
            device, or any NumPy array, which is brought to them.
        output_hidden_states: also return what transformers does: the input of every block and,
            last, the *normed* output, L + 1 tensors. The un-normed output of the last block is in
            none of them; `encoder.trace` has it.
        strict_length: False takes fewer frames and cuts the positions to them. This is not what
            transformers computes - it pads to 30 s - and Whisper was not trained on it.

        Returns EncoderOutput, tensors (B, T, S). Raises ValueError for another shape, TypeError
        for another dtype or device.
        """
        x = self.check(mel, strict_length)  # (B, M, F)
        if tap is no_tap and fast.applies(self, x):  # the same in less time, not needed to read on
            last, inputs = fast.forward(self, x, keep=output_hidden_states)
            return EncoderOutput(last, (*inputs, last) if output_hidden_states else None)
        op = ops.current()
        x = tap("conv1", parts.conv1d(x, self.conv1))  # (B, S, F)
        x = tap("gelu1", op.gelu(x))
        x = tap("conv2", parts.conv1d(x, self.conv2))  # (B, S, T)
        x = tap("gelu2", op.gelu(x))
        x = x.transpose(1, 2)  # (B, T, S)
        x = tap("positions", x + self.positions[: x.shape[1]])

        hidden_states = []
        for i, block in enumerate(self.blocks):
            hidden_states.append(x)
            x = block(x, under(tap, f"block.{i}."))
        x = tap("ln_post", parts.layer_norm(x, self.ln_post))
        return EncoderOutput(x, (*hidden_states, x) if output_hidden_states else None)

    def check(self, mel: Tensor | np.ndarray[Any, Any], strict_length: bool) -> Tensor:
        """The features as a batch that this model can take, or an error that says what to do."""
        # `positions` is where the model computes; an offloaded part's weights are elsewhere.
        config, weight = self.config, self.positions
        if isinstance(mel, np.ndarray):  # torch takes no other byte order and no negative stride
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
        """The encoder of a checkpoint, of which nothing else is read.

        name_or_path: a local folder, a file, or a name on the Hugging Face Hub, looked up in the
            local cache first. See `checkpoint.load`, which takes the other options. Or
            "formula:tiny" and the like: see `built_in`.
        Raises CheckpointError (a ValueError) for what cannot be read or does not fit.
        """
        if os.fspath(name_or_path).startswith(built_in.PREFIX):
            return built_in.load(os.fspath(name_or_path), dtype, device)
        config, weights = checkpoint.load(name_or_path, dtype=dtype, device=device, **options)
        return cls.from_weights(config, weights)

    @classmethod
    def from_formula(
        cls,
        config: EncoderConfig,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> WhisperEncoder:
        """An encoder of these dimensions whose weights come from `formula.py`: no download."""
        weights = {
            name: torch.from_numpy(formula.weight(name, shape)).to(device, dtype)
            for name, shape in checkpoint.shapes(config).items()
        }
        return cls.from_weights(config, weights)

    @classmethod
    def from_weights(cls, config: EncoderConfig, weights: dict[str, Tensor]) -> WhisperEncoder:
        """An encoder around these tensors, which are not copied; ready for inference."""
        with torch.device("meta"):  # allocate nothing that the weights would replace
            model = cls(config)
        model.load_state_dict(weights, assign=True)
        model.positions.requires_grad_(False)
        return model.eval()


@torch.no_grad()
def trace(
    model: WhisperEncoder, mel: Tensor | np.ndarray[Any, Any], **options: Any
) -> dict[str, Tensor]:
    """Every stage of `model(mel, **options)`, name to tensor, in order; `ln_post` is the result.

    Attention scores and weights, (B, H, T, T), are in it: at 1500 positions they are most of the
    memory. The result has the bits of `model(mel)`, or is it to rounding where `fast.py` is taken.
    """
    stages: dict[str, Tensor] = {}

    def keep(stage: str, tensor: Tensor) -> Tensor:
        stages[stage] = tensor
        return tensor

    model(mel, tap=keep, **options)
    return stages
