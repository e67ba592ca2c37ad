"""The encoder half of the catalogue, second part: attention, MLP, blocks, number types.

A bias on k is not in BLOCKS: it adds the same to every score of a query, which softmax takes off
again, so that only k and the scores can show it. `diagnosis` looks for it in k.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from melfront.encoder import ops

from . import wrong_ops as wrong
from .entry import At, catalogue, encoder_mistake
from .wrong_ops import ZERO, each, renamed, scores_times, swapped_qkv


def second_map(at: At, x: Tensor) -> Tensor:
    fc2: Any = at.model.blocks[at.number].mlp.fc2  # type: ignore[union-attr]  # a Block
    return ops.current().linear(x, fc2.weight, fc2.bias)


def last(at: At) -> Tensor:
    return at.block_output(at.model.config.n_audio_layer - 1)


def before_last(at: At) -> Tensor:
    return at.block_output(at.model.config.n_audio_layer - 2)


(ADDED_BIAS,) = catalogue(
    "block.0.attn.k",
    encoder_mistake(
        "bias added to k",
        "k has a bias, and Whisper's has none; the scores change by it and nothing after them, "
        "because softmax takes off what all keys of a query have in common",
    ),
)

BLOCKS = catalogue(
    "block.0.attn.q",
    encoder_mistake(
        "q bias missing", "the projection of q has no bias", weights=each(r"attn\.q\.bias", ZERO)
    ),
    encoder_mistake(
        "q, k and v transposed",
        "x W where x W^T is meant; the matrices are square, so nothing complains",
        weights=each(r"attn\.[qkv]\.weight", lambda w: w.T.contiguous()),
    ),
    encoder_mistake(
        "q and k swapped",
        "q and k are swapped, in a fused projection perhaps",
        ops={"qkv": swapped_qkv("kqv")},
    ),
    encoder_mistake(
        "weights in int8",
        "the linear maps' weights are 8-bit integers, a scale for each row",
        weights=each(r"(attn\.\w+|fc\d)\.weight", wrong.int8),
    ),
    encoder_mistake(
        "TF32 products",
        "the linear maps keep 10 bits of each factor: torch.backends.cuda.matmul.allow_tf32",
        ops={"linear": wrong.tf32_linear},
    ),
    "block.0.attn.k",
    encoder_mistake(
        "k and v swapped",
        "k and v are swapped, in a fused projection perhaps",
        ops={"qkv": swapped_qkv("qvk")},
    ),
    "block.0.attn.v",
    encoder_mistake(
        "v bias missing", "the projection of v has no bias", weights=each(r"attn\.v\.bias", ZERO)
    ),
    "block.0.attn.scores",
    encoder_mistake(
        "scores not scaled",
        "scores not divided by sqrt(head_dim)",
        ops=scores_times(lambda d, h: 1.0),
    ),
    encoder_mistake(
        "scores scaled twice",
        "scores divided by sqrt(head_dim) twice: q is scaled and the kernel scales again",
        ops=scores_times(lambda d, h: 1 / d),
    ),
    encoder_mistake(
        "scores over sqrt(state)",
        "scores divided by sqrt(state), the width of all heads together",
        ops=scores_times(lambda d, h: (d * h) ** -0.5),
    ),
    encoder_mistake(
        "scores over the fourth root",
        "scores divided by head_dim^(1/4): OpenAI's factor for q and for k, applied to one of them",
        ops=scores_times(lambda d, h: d**-0.25),
    ),
    encoder_mistake(
        "causal mask",
        "positions do not see those after them: a decoder's attention",
        ops={"scores": wrong.causal_scores, "attention": ops.explicit_attention},
    ),
    encoder_mistake(
        "padding masked",
        "positions after the clip are masked; Whisper attends to them",
        ops={"scores": wrong.masked_scores, "attention": wrong.always_explicit},
        needs_clip=True,
    ),
    encoder_mistake(
        "heads interleaved",
        "head h has every H-th channel; it should have D neighbouring ones",
        ops={"scores": wrong.interleaved_scores, "attention": wrong.interleaved_attention},
    ),
    encoder_mistake(
        "heads cut without a transposition",
        "(T, S) is reshaped to (H, T, D) directly, and back; it should become (T, H, D) and then "
        "be transposed",
        ops={"scores": wrong.reshaped_scores, "attention": wrong.reshaped_attention},
    ),
    "block.0.attn.weights",
    encoder_mistake(
        "softmax over the queries",
        "the shares sum to 1 along the wrong axis",
        ops={"softmax": wrong.softmax_over_queries, "attention": ops.explicit_attention},
    ),
    "block.0.attn.context",
    encoder_mistake(
        "attention between heads",
        "(T, H, D) is not transposed to (H, T, D), so that the heads of one position attend to "
        "each other, and no position to another",
        ops={"attention": wrong.attention_between_heads},
    ),
    encoder_mistake(
        "rows of padding attended to",
        "keys and values are padded with zeros to a multiple of 256, 1500 to 1536, and nothing "
        "masks them",
        "whisper.cpp's flash attention, fix proposed in #3941",
        ops={"attention": wrong.attend_to_padding},
    ),
    encoder_mistake(
        "heads not transposed back",
        "(H, T, D) is read as (T, S) without moving the heads next to their channels",
        rewrite={
            "attn.context": lambda at, x: (
                x.unflatten(-1, (at.model.config.n_audio_head, -1)).transpose(1, 2).reshape(x.shape)
            )
        },
    ),
    "block.0.attn.out",
    encoder_mistake(
        "out bias missing",
        "the projection after attention has no bias",
        weights=each(r"attn\.out\.bias", ZERO),
    ),
    encoder_mistake(
        "out transposed",
        "the projection after attention is applied transposed; it is square, so nothing complains",
        weights=each(r"attn\.out\.weight", lambda w: w.T.contiguous()),
    ),
    "block.0.attn_residual",
    encoder_mistake(
        "attention not added",
        "attention's output replaces the block's input, to which it should be added",
        rewrite={"attn_residual": lambda at, _: at["attn.out"]},
    ),
    encoder_mistake(
        "normed residual",
        "attention's output is added to the normed input, not to the input",
        rewrite={"attn_residual": lambda at, _: at["attn_ln"] + at["attn.out"]},
    ),
    "block.0.mlp_ln",
    encoder_mistake(
        "parallel block",
        "the MLP is given the block's input, as in GPT-J; it should see what attention has added",
        rewrite={"mlp_ln": lambda at, _: at.norm(at.block_input, "mlp_ln")},
    ),
    "block.0.mlp.fc1",
    encoder_mistake(
        "fc1 bias missing", "the MLP's first map has no bias", weights=each(r"fc1\.bias", ZERO)
    ),
    "block.0.mlp.gelu",
    encoder_mistake(
        "no GELU in the MLP",
        "the GELU between the MLP's two maps is left out",
        rewrite={
            "mlp.gelu": lambda at, _: at["mlp.fc1"],
            "mlp.fc2": lambda at, _: second_map(at, at["mlp.gelu"]),
        },
    ),
    "block.0.mlp.fc2",
    encoder_mistake(
        "fc2 bias missing", "the MLP's second map has no bias", weights=each(r"fc2\.bias", ZERO)
    ),
    "block.0.mlp_residual",
    encoder_mistake(
        "MLP not added",
        "the MLP's output replaces what was there, to which it should be added",
        rewrite={"mlp_residual": lambda at, _: at["mlp.fc2"]},
    ),
    "block.1.attn_ln",
    encoder_mistake(
        "one block's weights for all",
        "every block has the weights of block 0: a loader's index that never moves",
        weights=renamed(wrong.first_block),
    ),
    "ln_post",
    encoder_mistake(
        "last block left out",
        "the output of the last block but one is normed",
        rewrite={"ln_post": lambda at, _: at.norm(before_last(at), "ln_post")},
    ),
    encoder_mistake(
        "no final norm",
        "the last block's output is returned without ln_post",
        rewrite={"ln_post": lambda at, _: last(at)},
    ),
    encoder_mistake(
        "final norm twice",
        "ln_post is applied twice: inside the encoder and outside",
        rewrite={"ln_post": lambda at, x: at.norm(x, "ln_post")},
    ),
)


# Mistakes of a kernel that only show on inputs made to show them: large offsets, huge scores.
KERNEL = catalogue(
    "block.0.attn_ln",
    encoder_mistake(
        "one-pass variance",
        "E[x^2] - E[x]^2, which cancels when the mean is large; take the mean off first",
        "llm.c dev/cuda/layernorm_forward.cu, version 4",
        ops={"layer_norm": wrong.one_pass_norm},
    ),
    "block.0.attn.weights",
    encoder_mistake(
        "softmax without the maximum taken off",
        "exp of the scores as they are, which overflows at 88; take the row's maximum off first",
        ops={"softmax": wrong.naive_softmax},
    ),
)
