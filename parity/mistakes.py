"""The catalogue: every known mistake of a port, each our own pipeline with one decision changed.

A front-end mistake is a `Convention` with fields changed, run by `melfront.oracle`
(`frontend_mistakes.py`). An encoder mistake is our model with an op replaced (`encoder.ops.using`),
weights changed as they are loaded, or one stage rewritten from those before it. `stage` is the
first that the mistake spoils; in the encoder it is given for block 0, though every block makes it.

A bias on k is missing on purpose: it adds the same to every score of a query, which softmax takes
off again, so that no output can show it. `encoder.checkpoint` refuses such a checkpoint instead.

    # B batch  T positions  S state  H heads  D head_dim
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from encoder import WhisperEncoder, formula, ops
from encoder.model import no_tap

from .frontend_mistakes import FRONT_END, FrontEndMistake

__all__ = ["ENCODER", "FRONT_END", "KERNEL", "EncoderMistake", "FrontEndMistake", "find", "run"]

Tap = Callable[[str, Tensor], Tensor]
Weights = dict[str, Tensor]


@dataclass
class At:
    """Where a rewrite stands: the model, the stages so far, and the prefix of this block's."""

    model: WhisperEncoder
    seen: dict[str, Tensor]
    prefix: str = ""

    def __getitem__(self, stage: str) -> Tensor:
        """A stage of this block, or of the stem."""
        return (
            self.seen[self.prefix + stage] if self.prefix + stage in self.seen else self.seen[stage]
        )

    @property
    def number(self) -> int:
        return int(self.prefix.split(".")[1])

    @property
    def block_input(self) -> Tensor:
        return self.seen[f"block.{self.number - 1}.mlp_residual" if self.number else "positions"]

    def norm(self, x: Tensor, which: str) -> Tensor:
        """x (B, T, S) through this block's attn_ln or mlp_ln, or through ln_post."""
        owner = self.model if which == "ln_post" else self.model.blocks[self.number]
        layer = getattr(owner, which)
        return ops.current().layer_norm(x, layer.weight, layer.bias)


Rewrite = Callable[[At, Tensor], Tensor]


@dataclass(frozen=True)
class EncoderMistake:
    """One decision changed: ops replaced, weights changed, or stages rewritten."""

    name: str
    stage: str  # the first stage that it spoils, in block 0 if in a block
    sentence: str  # what is wrong, and how people come to do it
    seen: str = ""  # where it has shipped
    ops: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    weights: Callable[[Weights], Weights] | None = None
    rewrite: Mapping[str, Rewrite] = field(default_factory=dict)  # by stage, without "block.i."
    needs_clip: bool = False  # depends on how many positions hold audio


def run(
    mistake: EncoderMistake, model: WhisperEncoder, mel: Tensor, tap: Tap = no_tap, n_audio: int = 0
) -> Tensor:
    """The model's last hidden state (B, T, S) with the mistake made; `tap` sees every stage.

    n_audio is how many positions hold audio, for the mistakes that treat the others differently.
    """
    if mistake.weights:
        changed = mistake.weights(dict(model.state_dict()))
        model = WhisperEncoder.from_weights(model.config, changed)
    replaced = dict(mistake.ops)
    if mistake.needs_clip:
        replaced = {slot: function(n_audio) for slot, function in replaced.items()}
    if mistake.rewrite:
        tap = rewriting(mistake, At(model, {}), tap)
    with ops.using(**replaced), torch.no_grad():
        return model(mel, tap=tap).last_hidden_state


def rewriting(mistake: EncoderMistake, at: At, tap: Tap) -> Tap:
    """A tap that rewrites the mistake's stages before it hands them on."""

    def hook(stage: str, tensor: Tensor) -> Tensor:
        inside = re.match(r"block\.\d+\.", stage)
        at.prefix = inside[0] if inside else ""
        rewrite = mistake.rewrite.get(stage.removeprefix(at.prefix))
        if rewrite:
            tensor = rewrite(at, tensor)
        tensor = tap(stage, tensor)
        if not stage.endswith(("scores", "weights")):  # large, and no rewrite asks for them
            at.seen[stage] = tensor
        return tensor

    return hook


# --- ops done differently -------------------------------------------------------------------------


def tanh_gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def flipped_conv1d(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return ops.conv1d(x, weight.flip(-1), bias, stride)


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return functional.conv1d(functional.pad(x, (2, 0)), weight, bias, stride)


def late_conv1d(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return functional.conv1d(functional.pad(x, (2 - stride, stride)), weight, bias, stride)


def edge_conv1d(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return functional.conv1d(functional.pad(x, (1, 1), mode="replicate"), weight, bias, stride)


def swapped_strides(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return ops.conv1d(x, weight, bias, stride=3 - stride)


def norm_with_eps(eps: float) -> Callable[..., Tensor]:
    def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, _eps: float = 0.0) -> Tensor:
        return ops.layer_norm(x, weight, bias, eps)

    return layer_norm


def eps_outside(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True).sqrt() + eps) * weight + bias


def unbiased_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (x.var(-1, keepdim=True, unbiased=True) + eps).sqrt() * weight + bias


def rms_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def norm_without_bias(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    return ops.layer_norm(x, weight, torch.zeros_like(bias), eps)


def norm_without_scale(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    return ops.layer_norm(x, torch.ones_like(weight), bias, eps)


def one_pass_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = x.square().mean(-1, keepdim=True) - mean.square()
    return (x - mean) / (variance + eps).sqrt() * weight + bias


def naive_softmax(scores: Tensor) -> Tensor:
    shares = scores.exp()
    return shares / shares.sum(-1, keepdim=True)


def keep_bits(x: Tensor, bits: int) -> Tensor:
    """x (any shape, float32) with this many mantissa bits kept, to nearest even."""
    drop = 23 - bits
    raw = x.float().contiguous().view(torch.int32)
    raw = (raw + ((1 << (drop - 1)) - 1 + ((raw >> drop) & 1))) & ~((1 << drop) - 1)
    return raw.view(torch.float32).to(x.dtype)


def tf32_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return ops.linear(keep_bits(x, 10), keep_bits(weight, 10), bias)


def scores_times(factor: Callable[[int, int], float]) -> dict[str, Callable[..., Any]]:
    """Ops whose scores are q k^T times factor(head_dim, n_head)."""

    def scores(q: Tensor, k: Tensor) -> Tensor:
        return (q * factor(q.shape[-1], q.shape[1])) @ k.mT

    return {"scores": scores, "attention": ops.explicit_attention}


def causal_scores(q: Tensor, k: Tensor) -> Tensor:
    n = q.shape[2]
    future = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)
    return ops.scores(q, k).masked_fill(future, -math.inf)


def masked_scores(n_audio: int) -> Callable[..., Tensor]:
    def scores(q: Tensor, k: Tensor) -> Tensor:
        padding = torch.arange(k.shape[2], device=k.device) >= n_audio
        return ops.scores(q, k).masked_fill(padding, -math.inf)

    return scores


def always_explicit(_n_audio: int) -> Callable[..., Tensor]:
    return ops.explicit_attention


def softmax_over_queries(scores: Tensor) -> Tensor:
    return torch.softmax(scores, dim=-2)


def attend_to_padding(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    spare = -k.shape[2] % 256
    k, v = functional.pad(k, (0, 0, 0, spare)), functional.pad(v, (0, 0, 0, spare))
    return ops.attention(q, k, v)


def interleaved(x: Tensor) -> Tensor:
    """Heads (B, H, T, D) cut from every H-th channel instead of D neighbours, and its inverse."""
    b, h, t, d = x.shape
    return x.transpose(1, 2).reshape(b, t, d, h).permute(0, 3, 1, 2)


def interleaved_scores(q: Tensor, k: Tensor) -> Tensor:
    return ops.scores(interleaved(q), interleaved(k))


def interleaved_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h, t, d = q.shape
    context = ops.attention(interleaved(q), interleaved(k), interleaved(v))
    return context.permute(0, 2, 3, 1).reshape(b, t, h, d).transpose(1, 2)


def swapped_qkv(order: str) -> Callable[..., tuple[Tensor, ...]]:
    """The projections, handed out in another order."""

    def qkv(*arguments: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip("qkv", ops.qkv(*arguments), strict=True))
        return tuple(named[letter] for letter in order)

    return qkv


# --- weights changed ------------------------------------------------------------------------------


def each(pattern: str, change: Callable[[Tensor], Tensor]) -> Callable[[Weights], Weights]:
    """Change every tensor whose name matches the pattern to its end."""
    return lambda weights: {
        name: change(w) if re.search(pattern + "$", name) else w for name, w in weights.items()
    }


def renamed(change: Callable[[str, int], str]) -> Callable[[Weights], Weights]:
    """Every tensor of a block takes the tensor of another name: change(name, n_layer)."""

    def apply(weights: Weights) -> Weights:
        n_layer = 1 + max(int(n.split(".")[1]) for n in weights if n.startswith("blocks."))
        return {
            name: weights[change(name, n_layer)] if name.startswith("blocks.") else w
            for name, w in weights.items()
        }

    return apply


def reversed_block(name: str, n_layer: int) -> str:
    first, number, rest = name.split(".", 2)
    return f"{first}.{n_layer - 1 - int(number)}.{rest}"


def first_block(name: str, _n_layer: int) -> str:
    return re.sub(r"blocks\.\d+", "blocks.0", name)


def swapped_norms(name: str, _n_layer: int) -> str:
    swap = {"attn_ln": "mlp_ln", "mlp_ln": "attn_ln"}
    return re.sub("attn_ln|mlp_ln", lambda found: swap[found[0]], name)


def int8(w: Tensor) -> Tensor:
    scale = w.abs().amax(-1, keepdim=True) / 127
    return (w / scale).round() * scale


# --- positions ------------------------------------------------------------------------------------


def table(w: Tensor, make: Callable[[int, int], Any]) -> Tensor:
    """A position table made anew, of the shape and type of w."""
    return torch.as_tensor(make(*w.shape)).to(w)


def interleave_table(w: Tensor) -> Tensor:
    half = w.shape[1] // 2
    return torch.stack([w[:, :half], w[:, half:]], dim=-1).flatten(1)


def other_base(n: int, state: int) -> Tensor:
    """The table with the exponent divided by state / 2, as in the Transformer paper."""
    half = state // 2
    angle = torch.arange(n, dtype=torch.float64)[:, None] / 10_000.0 ** (torch.arange(half) / half)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


ZERO = torch.zeros_like

ENCODER = [
    # --- stem -----------------------------------------------------------------------------------
    EncoderMistake(
        "flipped kernel",
        "conv1",
        "the kernels are applied back to front: a convolution as mathematicians define it, "
        "numpy.convolve, where all deep-learning libraries correlate",
        ops={"conv1d": flipped_conv1d},
    ),
    EncoderMistake(
        "causal convolution",
        "conv1",
        "two zeros before the sequence, instead of one before and one after",
        ops={"conv1d": causal_conv1d},
    ),
    EncoderMistake(
        "edges repeated by the convolutions",
        "conv1",
        "the convolutions are padded by repeating the edge, not with a zero",
        ops={"conv1d": edge_conv1d},
    ),
    EncoderMistake(
        "stride on the first convolution",
        "conv1",
        "the first convolution has stride 2 and the second 1; it is the other way round",
        ops={"conv1d": swapped_strides},
    ),
    EncoderMistake(
        "odd frames kept",
        "conv2",
        "the second convolution is centred on frames 1, 3, 5 ...: padding 'same' of TensorFlow "
        "and ONNX puts the zero after the sequence when the stride is 2",
        ops={"conv1d": late_conv1d},
    ),
    EncoderMistake(
        "convolution biases missing",
        "conv1",
        "conv1 and conv2 have no bias",
        weights=each(r"conv\d\.bias", ZERO),
    ),
    EncoderMistake(
        "no GELU after conv1",
        "gelu1",
        "the GELU after the first convolution is left out",
        rewrite={"gelu1": lambda at, _: at["conv1"]},
    ),
    EncoderMistake(
        "no GELU after conv2",
        "gelu2",
        "the GELU after the second convolution is left out",
        rewrite={"gelu2": lambda at, _: at["conv2"]},
    ),
    EncoderMistake(
        "tanh GELU",
        "gelu1",
        "GELU's tanh approximation; Whisper's is the exact one, with erf",
        "whisper.cpp, candle, tinygrad, TensorRT-LLM",
        ops={"gelu": tanh_gelu},
    ),
    EncoderMistake(
        "sigmoid GELU", "gelu1", "x sigmoid(1.702 x), CLIP's quick_gelu", ops={"gelu": quick_gelu}
    ),
    EncoderMistake("ReLU", "gelu1", "ReLU where GELU is meant", ops={"gelu": torch.relu}),
    EncoderMistake("SiLU", "gelu1", "SiLU where GELU is meant", ops={"gelu": functional.silu}),
    # --- positions ------------------------------------------------------------------------------
    EncoderMistake(
        "no positions",
        "positions",
        "the position table is not added",
        weights=each("positions", ZERO),
    ),
    EncoderMistake(
        "interleaved positions",
        "positions",
        "sine and cosine alternate, as in the Transformer paper; Whisper has all sines first",
        weights=each("positions", interleave_table),
    ),
    EncoderMistake(
        "cosine before sine",
        "positions",
        "the table's halves are swapped: cosines come first",
        weights=each("positions", lambda w: w.roll(w.shape[1] // 2, dims=1)),
    ),
    EncoderMistake(
        "positions recomputed",
        "positions",
        "the table is computed, not loaded: the stored one differs from the formula in the "
        "fourth digit",
        "candle, mlx-whisper, TensorRT-LLM compute it",
        weights=each("positions", lambda w: table(w, formula.sinusoids)),
    ),
    EncoderMistake(
        "positions of the Transformer paper",
        "positions",
        "10000^(j / half) as in the paper; Whisper has 10000^(j / (half - 1))",
        weights=each("positions", lambda w: table(w, other_base)),
    ),
    EncoderMistake(
        "positions from 1",
        "positions",
        "the first position gets the second row of the table",
        weights=each("positions", lambda w: w.roll(-1, dims=0)),
    ),
    EncoderMistake(
        "positions scaled",
        "positions",
        "the features are multiplied by sqrt(state) before the positions are added: "
        "scale_embedding, which Whisper has switched off",
        rewrite={
            "positions": lambda at, x: x + (math.sqrt(x.shape[2]) - 1) * at["gelu2"].transpose(1, 2)
        },
    ),
    # --- layer norm -----------------------------------------------------------------------------
    EncoderMistake(
        "eps of 1e-6",
        "block.0.attn_ln",
        "the layer norms' eps is 1e-6, Keras' or T5's, not 1e-5",
        ops={"layer_norm": norm_with_eps(1e-6)},
    ),
    EncoderMistake(
        "eps of 1e-12",
        "block.0.attn_ln",
        "the layer norms' eps is 1e-12, BERT's, not 1e-5",
        ops={"layer_norm": norm_with_eps(1e-12)},
    ),
    EncoderMistake(
        "eps of 1e-3",
        "block.0.attn_ln",
        "the layer norms' eps is 1e-3, Keras' default, not 1e-5",
        ops={"layer_norm": norm_with_eps(1e-3)},
    ),
    EncoderMistake(
        "eps outside the root",
        "block.0.attn_ln",
        "eps is added to the standard deviation",
        ops={"layer_norm": eps_outside},
    ),
    EncoderMistake(
        "unbiased variance",
        "block.0.attn_ln",
        "the layer norms divide by S - 1, as torch.var does unless told otherwise",
        ops={"layer_norm": unbiased_norm},
    ),
    EncoderMistake(
        "RMS norm",
        "block.0.attn_ln",
        "the layer norms do not take off the mean",
        ops={"layer_norm": rms_norm},
    ),
    EncoderMistake(
        "layer norms without bias",
        "block.0.attn_ln",
        "the layer norms' biases are left out",
        ops={"layer_norm": norm_without_bias},
    ),
    EncoderMistake(
        "layer norms without scale",
        "block.0.attn_ln",
        "the layer norms' weights are left out",
        ops={"layer_norm": norm_without_scale},
    ),
    EncoderMistake(
        "layer norms swapped",
        "block.0.attn_ln",
        "attention has the norm of the MLP and the MLP that of attention: in transformers' names "
        "the MLP's is final_layer_norm",
        weights=renamed(swapped_norms),
    ),
    EncoderMistake(
        "post-norm",
        "block.0.attn_ln",
        "the norms come after the additions, as in BERT; Whisper norms what goes into attention "
        "and MLP",
        rewrite={
            "attn_ln": lambda at, _: at.block_input,
            "attn_residual": lambda at, x: at.norm(x, "attn_ln"),
            "mlp_ln": lambda at, _: at["attn_residual"],
            "mlp_residual": lambda at, x: at.norm(x, "mlp_ln"),
        },
    ),
    # --- projections ----------------------------------------------------------------------------
    EncoderMistake(
        "q bias missing",
        "block.0.attn.q",
        "the projection of q has no bias",
        weights=each(r"attn\.q\.bias", ZERO),
    ),
    EncoderMistake(
        "v bias missing",
        "block.0.attn.v",
        "the projection of v has no bias",
        weights=each(r"attn\.v\.bias", ZERO),
    ),
    EncoderMistake(
        "out bias missing",
        "block.0.attn.out",
        "the projection after attention has no bias",
        weights=each(r"attn\.out\.bias", ZERO),
    ),
    EncoderMistake(
        "fc1 bias missing",
        "block.0.mlp.fc1",
        "the MLP's first map has no bias",
        weights=each(r"fc1\.bias", ZERO),
    ),
    EncoderMistake(
        "fc2 bias missing",
        "block.0.mlp.fc2",
        "the MLP's second map has no bias",
        weights=each(r"fc2\.bias", ZERO),
    ),
    EncoderMistake(
        "q, k and v transposed",
        "block.0.attn.q",
        "x W where x W^T is meant; the matrices are square, so nothing complains",
        weights=each(r"attn\.[qkv]\.weight", lambda w: w.T.contiguous()),
    ),
    EncoderMistake(
        "out transposed",
        "block.0.attn.out",
        "the projection after attention is applied transposed; it is square, so nothing complains",
        weights=each(r"attn\.out\.weight", lambda w: w.T.contiguous()),
    ),
    EncoderMistake(
        "q and k swapped",
        "block.0.attn.q",
        "q and k are swapped, in a fused projection perhaps",
        ops={"qkv": swapped_qkv("kqv")},
    ),
    EncoderMistake(
        "k and v swapped",
        "block.0.attn.k",
        "k and v are swapped, in a fused projection perhaps",
        ops={"qkv": swapped_qkv("qvk")},
    ),
    # --- attention ------------------------------------------------------------------------------
    EncoderMistake(
        "scores not scaled",
        "block.0.attn.scores",
        "scores not divided by sqrt(head_dim)",
        ops=scores_times(lambda d, h: 1.0),
    ),
    EncoderMistake(
        "scores scaled twice",
        "block.0.attn.scores",
        "scores divided by sqrt(head_dim) twice: q is scaled and the kernel scales again",
        ops=scores_times(lambda d, h: 1 / d),
    ),
    EncoderMistake(
        "scores over sqrt(state)",
        "block.0.attn.scores",
        "scores divided by sqrt(state), the width of all heads together",
        ops=scores_times(lambda d, h: (d * h) ** -0.5),
    ),
    EncoderMistake(
        "scores over the fourth root",
        "block.0.attn.scores",
        "scores divided by head_dim^(1/4): OpenAI's factor for q and for k, applied to one of them",
        ops=scores_times(lambda d, h: d**-0.25),
    ),
    EncoderMistake(
        "causal mask",
        "block.0.attn.scores",
        "positions do not see those after them: a decoder's attention",
        ops={"scores": causal_scores, "attention": ops.explicit_attention},
    ),
    EncoderMistake(
        "padding masked",
        "block.0.attn.scores",
        "positions after the clip are masked; Whisper attends to them",
        ops={"scores": masked_scores, "attention": always_explicit},
        needs_clip=True,
    ),
    EncoderMistake(
        "heads interleaved",
        "block.0.attn.scores",
        "head h has every H-th channel; it should have D neighbouring ones",
        ops={"scores": interleaved_scores, "attention": interleaved_attention},
    ),
    EncoderMistake(
        "softmax over the queries",
        "block.0.attn.weights",
        "the shares sum to 1 along the wrong axis",
        ops={"softmax": softmax_over_queries, "attention": ops.explicit_attention},
    ),
    EncoderMistake(
        "rows of padding attended to",
        "block.0.attn.context",
        "keys and values are padded with zeros to a multiple of 256, 1500 to 1536, and nothing "
        "masks them",
        "whisper.cpp's flash attention, fix proposed in #3941",
        ops={"attention": attend_to_padding},
    ),
    EncoderMistake(
        "heads not transposed back",
        "block.0.attn.context",
        "(H, T, D) is read as (T, S) without moving the heads next to their channels",
        rewrite={
            "attn.context": lambda at, x: (
                x.unflatten(-1, (at.model.config.n_audio_head, -1)).transpose(1, 2).reshape(x.shape)
            )
        },
    ),
    # --- residuals and MLP ----------------------------------------------------------------------
    EncoderMistake(
        "attention not added",
        "block.0.attn_residual",
        "attention's output replaces the block's input, to which it should be added",
        rewrite={"attn_residual": lambda at, _: at["attn.out"]},
    ),
    EncoderMistake(
        "MLP not added",
        "block.0.mlp_residual",
        "the MLP's output replaces what was there, to which it should be added",
        rewrite={"mlp_residual": lambda at, _: at["mlp.fc2"]},
    ),
    EncoderMistake(
        "normed residual",
        "block.0.attn_residual",
        "attention's output is added to the normed input, not to the input",
        rewrite={"attn_residual": lambda at, _: at["attn_ln"] + at["attn.out"]},
    ),
    EncoderMistake(
        "parallel block",
        "block.0.mlp_ln",
        "the MLP is given the block's input, as in GPT-J; it should see what attention has added",
        rewrite={"mlp_ln": lambda at, _: at.norm(at.block_input, "mlp_ln")},
    ),
    EncoderMistake(
        "no GELU in the MLP",
        "block.0.mlp.gelu",
        "the GELU between the MLP's two maps is left out",
        rewrite={
            "mlp.gelu": lambda at, _: at["mlp.fc1"],
            "mlp.fc2": lambda at, _: second_map(at, at["mlp.gelu"]),
        },
    ),
    # --- blocks and the end ---------------------------------------------------------------------
    EncoderMistake(
        "blocks in reverse order",
        "block.0.attn_ln",
        "the last block's weights come first",
        weights=renamed(reversed_block),
    ),
    EncoderMistake(
        "one block's weights for all",
        "block.1.attn_ln",
        "every block has the weights of block 0: a loader's index that never moves",
        weights=renamed(first_block),
    ),
    EncoderMistake(
        "last block left out",
        "ln_post",
        "the output of the last block but one is normed",
        rewrite={"ln_post": lambda at, _: at.norm(before_last(at), "ln_post")},
    ),
    EncoderMistake(
        "no final norm",
        "ln_post",
        "the last block's output is returned without ln_post",
        rewrite={"ln_post": lambda at, _: last(at)},
    ),
    EncoderMistake(
        "final norm twice",
        "ln_post",
        "ln_post is applied twice: inside the encoder and outside",
        rewrite={"ln_post": lambda at, x: at.norm(x, "ln_post")},
    ),
    # --- number types ---------------------------------------------------------------------------
    EncoderMistake(
        "weights in bfloat16",
        "conv1",
        "the weights were rounded to bfloat16 on their way",
        weights=each("weight", lambda w: w.bfloat16().to(w)),
    ),
    EncoderMistake(
        "weights in float16",
        "conv1",
        "the weights were rounded to float16 on their way; a float16 checkpoint has lost nothing",
        "whisper.cpp convert-h5-to-ggml.py",
        weights=each("weight", lambda w: w.half().to(w)),
    ),
    EncoderMistake(
        "weights in int8",
        "block.0.attn.q",
        "the linear maps' weights are 8-bit integers, a scale for each row",
        weights=each(r"(attn\.\w+|fc\d)\.weight", int8),
    ),
    EncoderMistake(
        "TF32 products",
        "block.0.attn.q",
        "the linear maps keep 10 bits of each factor: torch.backends.cuda.matmul.allow_tf32",
        ops={"linear": tf32_linear},
    ),
]

# Mistakes of a kernel that only show on inputs made to show them: large offsets, huge scores.
KERNEL = [
    EncoderMistake(
        "one-pass variance",
        "block.0.attn_ln",
        "E[x^2] - E[x]^2, which cancels when the mean is large; take the mean off first",
        "llm.c dev/cuda/layernorm_forward.cu, version 4",
        ops={"layer_norm": one_pass_norm},
    ),
    EncoderMistake(
        "softmax without the maximum taken off",
        "block.0.attn.weights",
        "exp of the scores as they are, which overflows at 88; take the row's maximum off first",
        ops={"softmax": naive_softmax},
    ),
]


def second_map(at: At, x: Tensor) -> Tensor:
    fc2: Any = at.model.blocks[at.number].mlp.fc2  # type: ignore[union-attr]  # a Block
    return ops.current().linear(x, fc2.weight, fc2.bias)


def last(at: At) -> Tensor:
    return at.seen[f"block.{at.model.config.n_audio_layer - 1}.mlp_residual"]


def before_last(at: At) -> Tensor:
    n_layer = at.model.config.n_audio_layer
    return at.seen[f"block.{n_layer - 2}.mlp_residual" if n_layer > 1 else "positions"]


def everything() -> list[FrontEndMistake | EncoderMistake]:
    return [*FRONT_END, *ENCODER, *KERNEL]


def find(name: str) -> FrontEndMistake | EncoderMistake:
    """The entry of this name. Raises KeyError."""
    return {entry.name: entry for entry in everything()}[name]


def __getattr__(constant: str) -> FrontEndMistake | EncoderMistake:
    """`mistakes.SYMMETRIC_WINDOW` is the entry "symmetric window"."""
    for entry in everything():
        if re.sub(r"\W+", "_", entry.name).strip("_").upper() == constant:
            return entry
    raise AttributeError(f"no mistake named {constant}")
