"""The encoder half of the catalogue, and how an entry is run.

An entry is our model with an op replaced (`encoder.ops.using`), weights changed as they are loaded,
or one stage rewritten from those before it. `stage` is the first that the mistake spoils, given for
block 0, though every block makes it.

A bias on k is not in the list: it adds the same to every score of a query, which softmax takes off
again, so that only k and the scores can show it. `diagnose.py` looks for it in k.

    # B batch  T positions  S state
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

from . import wrong_ops as wrong
from .wrong_ops import Weights, each, renamed, scores_times, swapped_qkv, table

Tap = Callable[[str, Tensor], Tensor]


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


def second_map(at: At, x: Tensor) -> Tensor:
    fc2: Any = at.model.blocks[at.number].mlp.fc2  # type: ignore[union-attr]  # a Block
    return ops.current().linear(x, fc2.weight, fc2.bias)


def last(at: At) -> Tensor:
    return at.seen[f"block.{at.model.config.n_audio_layer - 1}.mlp_residual"]


def before_last(at: At) -> Tensor:
    n_layer = at.model.config.n_audio_layer
    return at.seen[f"block.{n_layer - 2}.mlp_residual" if n_layer > 1 else "positions"]


ZERO = torch.zeros_like

ADDED_BIAS = EncoderMistake(
    "bias added to k",
    "block.0.attn.k",
    "k has a bias, and Whisper's has none; the scores change by it and nothing after them, because "
    "softmax takes off what all keys of a query have in common",
)

ENCODER = [
    # --- stem -----------------------------------------------------------------------------------
    EncoderMistake(
        "flipped kernel",
        "conv1",
        "the kernels are applied back to front: a convolution as mathematicians define it, "
        "numpy.convolve, where all deep-learning libraries correlate",
        ops={"conv1d": wrong.flipped_conv1d},
    ),
    EncoderMistake(
        "causal convolution",
        "conv1",
        "two zeros before the sequence, instead of one before and one after",
        ops={"conv1d": wrong.causal_conv1d},
    ),
    EncoderMistake(
        "edges repeated by the convolutions",
        "conv1",
        "the convolutions are padded by repeating the edge, not with a zero",
        ops={"conv1d": wrong.edge_conv1d},
    ),
    EncoderMistake(
        "stride on the first convolution",
        "conv1",
        "the first convolution has stride 2 and the second 1; it is the other way round",
        ops={"conv1d": wrong.swapped_strides},
    ),
    EncoderMistake(
        "odd frames kept",
        "conv2",
        "the second convolution is centred on frames 1, 3, 5 ...: padding 'same' of TensorFlow "
        "and ONNX puts the zero after the sequence when the stride is 2",
        ops={"conv1d": wrong.late_conv1d},
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
        ops={"gelu": wrong.tanh_gelu},
    ),
    EncoderMistake(
        "sigmoid GELU",
        "gelu1",
        "x sigmoid(1.702 x), CLIP's quick_gelu",
        ops={"gelu": wrong.quick_gelu},
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
        weights=each("positions", wrong.interleave_table),
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
        weights=each("positions", lambda w: table(w, wrong.other_base)),
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
        ops={"layer_norm": wrong.norm_with_eps(1e-6)},
    ),
    EncoderMistake(
        "eps of 1e-12",
        "block.0.attn_ln",
        "the layer norms' eps is 1e-12, BERT's, not 1e-5",
        ops={"layer_norm": wrong.norm_with_eps(1e-12)},
    ),
    EncoderMistake(
        "eps of 1e-3",
        "block.0.attn_ln",
        "the layer norms' eps is 1e-3, Keras' default, not 1e-5",
        ops={"layer_norm": wrong.norm_with_eps(1e-3)},
    ),
    EncoderMistake(
        "eps outside the root",
        "block.0.attn_ln",
        "eps is added to the standard deviation",
        ops={"layer_norm": wrong.eps_outside},
    ),
    EncoderMistake(
        "unbiased variance",
        "block.0.attn_ln",
        "the layer norms divide by S - 1, as torch.var does unless told otherwise",
        ops={"layer_norm": wrong.unbiased_norm},
    ),
    EncoderMistake(
        "RMS norm",
        "block.0.attn_ln",
        "the layer norms do not take off the mean",
        ops={"layer_norm": wrong.rms_norm},
    ),
    EncoderMistake(
        "layer norms without bias",
        "block.0.attn_ln",
        "the layer norms' biases are left out",
        ops={"layer_norm": wrong.norm_without_bias},
    ),
    EncoderMistake(
        "layer norms without scale",
        "block.0.attn_ln",
        "the layer norms' weights are left out",
        ops={"layer_norm": wrong.norm_without_scale},
    ),
    EncoderMistake(
        "layer norms swapped",
        "block.0.attn_ln",
        "attention has the norm of the MLP and the MLP that of attention: in transformers' names "
        "the MLP's is final_layer_norm",
        weights=renamed(wrong.swapped_norms),
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
        ops={"scores": wrong.causal_scores, "attention": ops.explicit_attention},
    ),
    EncoderMistake(
        "padding masked",
        "block.0.attn.scores",
        "positions after the clip are masked; Whisper attends to them",
        ops={"scores": wrong.masked_scores, "attention": wrong.always_explicit},
        needs_clip=True,
    ),
    EncoderMistake(
        "heads interleaved",
        "block.0.attn.scores",
        "head h has every H-th channel; it should have D neighbouring ones",
        ops={"scores": wrong.interleaved_scores, "attention": wrong.interleaved_attention},
    ),
    EncoderMistake(
        "heads cut without a transposition",
        "block.0.attn.scores",
        "(T, S) is reshaped to (H, T, D) as it lies, and back; it should become (T, H, D) and "
        "then be transposed",
        ops={"scores": wrong.reshaped_scores, "attention": wrong.reshaped_attention},
    ),
    EncoderMistake(
        "attention between heads",
        "block.0.attn.context",
        "(T, H, D) is not transposed to (H, T, D), so that the heads of one position attend to "
        "each other, and no position to another",
        ops={"attention": wrong.attention_between_heads},
    ),
    EncoderMistake(
        "softmax over the queries",
        "block.0.attn.weights",
        "the shares sum to 1 along the wrong axis",
        ops={"softmax": wrong.softmax_over_queries, "attention": ops.explicit_attention},
    ),
    EncoderMistake(
        "rows of padding attended to",
        "block.0.attn.context",
        "keys and values are padded with zeros to a multiple of 256, 1500 to 1536, and nothing "
        "masks them",
        "whisper.cpp's flash attention, fix proposed in #3941",
        ops={"attention": wrong.attend_to_padding},
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
        weights=renamed(wrong.reversed_block),
    ),
    EncoderMistake(
        "one block's weights for all",
        "block.1.attn_ln",
        "every block has the weights of block 0: a loader's index that never moves",
        weights=renamed(wrong.first_block),
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
        weights=each(r"(attn\.\w+|fc\d)\.weight", wrong.int8),
    ),
    EncoderMistake(
        "TF32 products",
        "block.0.attn.q",
        "the linear maps keep 10 bits of each factor: torch.backends.cuda.matmul.allow_tf32",
        ops={"linear": wrong.tf32_linear},
    ),
]

# Mistakes of a kernel that only show on inputs made to show them: large offsets, huge scores.
KERNEL = [
    EncoderMistake(
        "one-pass variance",
        "block.0.attn_ln",
        "E[x^2] - E[x]^2, which cancels when the mean is large; take the mean off first",
        "llm.c dev/cuda/layernorm_forward.cu, version 4",
        ops={"layer_norm": wrong.one_pass_norm},
    ),
    EncoderMistake(
        "softmax without the maximum taken off",
        "block.0.attn.weights",
        "exp of the scores as they are, which overflows at 88; take the row's maximum off first",
        ops={"softmax": wrong.naive_softmax},
    ),
]
