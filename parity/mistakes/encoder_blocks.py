"""The encoder half of the catalogue, second part: attention, MLP, blocks, number types.

A bias on k is not in BLOCKS: it adds the same to every score of a query, which softmax takes off
again, so that only k and the scores can show it. `diagnosis` looks for it in k.
"""

from __future__ import annotations

import math
from operator import itemgetter

import torch

from melfront.encoder import ops, parts
from melfront.variants import round_mantissa

from . import wrong_ops as wrong
from .entry import catalogue
from .entry import encoder_mistake as mistake
from .wrong_ops import each, without

(ADDED_BIAS,) = catalogue(
    "block.0.attn.k",
    mistake(
        "bias added to k: k has a bias, and Whisper's has none; the scores change by it and "
        "nothing after them, because softmax takes off what all keys of a query have in common"
    ),
)

BLOCKS = catalogue(
    "block.0.attn.q",
    mistake("q bias missing: the projection of q has no bias", weights=without(r"attn\.q\.bias")),
    mistake(
        "q bias not scaled: q is scaled by 1 / sqrt(head_dim) before its bias is added, so that "
        "the bias counts sqrt(head_dim) times as much; scale the sum",
        rewrite={"attn.q": wrong.bias_not_scaled},
    ),
    mistake(
        "q, k and v transposed: x W where x W^T is meant; the matrices are square, so nothing "
        "complains",
        weights=each(r"attn\.[qkv]\.weight", lambda w: w.T.contiguous()),
    ),
    mistake(
        "q and k swapped: q and k are swapped, in a fused projection perhaps",
        qkv=lambda *arguments: itemgetter(1, 0, 2)(ops.qkv(*arguments)),
    ),
    mistake(
        "weights in int8: the linear maps' weights are 8-bit integers, a scale for each row",
        weights=each(r"(attn\.\w+|fc\d)\.weight", wrong.int8),
    ),
    mistake(
        "TF32 products: the linear maps keep 10 bits of each factor: "
        "torch.backends.cuda.matmul.allow_tf32",
        linear=lambda x, w, b=None: ops.linear(round_mantissa(x, 10), round_mantissa(w, 10), b),
    ),
    "block.0.attn.k",
    mistake(
        "k and v swapped: k and v are swapped, in a fused projection perhaps",
        qkv=lambda *arguments: itemgetter(0, 2, 1)(ops.qkv(*arguments)),
    ),
    "block.0.attn.v",
    mistake("v bias missing: the projection of v has no bias", weights=without(r"attn\.v\.bias")),
    "block.0.attn.scores",
    mistake(
        "scores not scaled: scores not divided by sqrt(head_dim)", scores=lambda q, k: q @ k.mT
    ),
    mistake(
        "scores scaled twice: scores divided by sqrt(head_dim) twice: q is scaled and the kernel "
        "scales again",
        scores=lambda q, k: (q * (1 / q.shape[-1])) @ k.mT,
    ),
    mistake(
        "scores over sqrt(state): scores divided by sqrt(state), the width of all heads together",
        scores=lambda q, k: (q * (q.shape[-1] * q.shape[1]) ** -0.5) @ k.mT,
    ),
    mistake(
        "scores over the fourth root: scores divided by head_dim^(1/4): OpenAI's factor for q and "
        "for k, applied to one of them",
        scores=lambda q, k: (q * q.shape[-1] ** -0.25) @ k.mT,
    ),
    mistake(
        "causal mask: positions do not see those after them: a decoder's attention",
        scores=wrong.causal_scores,
    ),
    mistake(
        "padding masked: positions after the clip are masked; Whisper attends to them",
        scores=wrong.masked_scores,
        needs_clip=True,
    ),
    mistake(
        "heads interleaved: head h has every H-th channel; it should have D neighbouring ones",
        **wrong.heads(wrong.interleaved, wrong.uninterleaved),
    ),
    mistake(
        "heads cut without a transposition: (T, S) is reshaped to (H, T, D) directly, and back; it "
        "should become (T, H, D) and then be transposed",
        **wrong.heads(
            cut=lambda x: x.transpose(1, 2).reshape(x.shape),
            uncut=lambda x: x.reshape(x.transpose(1, 2).shape).transpose(1, 2),
        ),
    ),
    mistake(
        "one head of keys and values: all heads attend to the keys and values of head 0, as in "
        "multi-query attention",
        scores=lambda q, k: ops.scores(q, k[:, :1].expand_as(k)),
        attention=lambda q, k, v: ops.attention(q, k[:, :1].expand_as(k), v[:, :1].expand_as(v)),
    ),
    "block.0.attn.weights",
    mistake(
        "softmax over the queries: the shares sum to 1 along the wrong axis",
        softmax=lambda scores: torch.softmax(scores, dim=-2),
    ),
    mistake(
        "exp2 in the softmax: the shares are powers of 2, not of e: a kernel's exp2 needs the "
        "scores times log2(e)",
        softmax=lambda scores: torch.softmax(scores * math.log(2), dim=-1),
    ),
    "block.0.attn.context",
    mistake(
        "attention between heads: (T, H, D) is not transposed to (H, T, D), so that the heads of "
        "one position attend to each other, and no position to another",
        attention=lambda *qkv: ops.attention(*(x.transpose(1, 2) for x in qkv)).transpose(1, 2),
    ),
    mistake(
        "rows of padding attended to: keys and values are padded with zeros to a multiple of 256, "
        "1500 to 1536, and nothing masks them",
        seen="whisper.cpp's flash attention, fix proposed in #3941",
        attention=wrong.attend_to_padding,
    ),
    mistake(
        "heads not transposed back: (H, T, D) is read as (T, S) without moving the heads next to "
        "their channels",
        rewrite={"attn.context": lambda at, x: at.block.attn.split(x).reshape(x.shape)},
    ),
    mistake(
        "last head lost: the last head's channels are zeros: a loop that ends one too early",
        rewrite={"attn.context": wrong.without_last_head},
    ),
    "block.0.attn.out",
    mistake(
        "out bias missing: the projection after attention has no bias",
        weights=without(r"attn\.out\.bias"),
    ),
    mistake(
        "out transposed: the projection after attention is applied transposed; it is square, so "
        "nothing complains",
        weights=each(r"attn\.out\.weight", lambda w: w.T.contiguous()),
    ),
    "block.0.attn_residual",
    mistake(
        "attention not added: attention's output replaces the block's input, to which it should be "
        "added",
        rewrite={"attn_residual": lambda at, _: at["attn.out"]},
    ),
    mistake(
        "normed residual: attention's output is added to the normed input, not to the input",
        rewrite={"attn_residual": lambda at, _: at["attn_ln"] + at["attn.out"]},
    ),
    mistake(
        "both residuals normed: attention's and the MLP's output are added to what was normed for "
        "them, not to what came in",
        rewrite={
            "attn_residual": lambda at, _: at["attn_ln"] + at["attn.out"],
            "mlp_residual": lambda at, _: at["mlp_ln"] + at["mlp.fc2"],
        },
    ),
    mistake(
        "attention left out: the blocks are their MLPs alone",
        rewrite={"attn_residual": lambda at, _: at.block_input},
    ),
    "block.0.mlp_ln",
    mistake(
        "parallel block: the MLP is given the block's input, as in GPT-J; it should see what "
        "attention has added",
        rewrite={"mlp_ln": lambda at, _: parts.layer_norm(at.block_input, at.block.mlp_ln)},
    ),
    "block.0.mlp.fc1",
    mistake("fc1 bias missing: the MLP's first map has no bias", weights=without(r"fc1\.bias")),
    "block.0.mlp.gelu",
    mistake(
        "no GELU in the MLP: the GELU between the MLP's two maps is left out",
        rewrite={"mlp.gelu": lambda at, _: at["mlp.fc1"]},
    ),
    "block.0.mlp.fc2",
    mistake("fc2 bias missing: the MLP's second map has no bias", weights=without(r"fc2\.bias")),
    mistake(
        "GELU after the MLP: the MLP's second map is followed by a GELU too",
        rewrite={"mlp.fc2": lambda _, x: ops.gelu(x)},
    ),
    "block.0.mlp_residual",
    mistake(
        "MLP not added: the MLP's output replaces what was there, to which it should be added",
        rewrite={"mlp_residual": lambda at, _: at["mlp.fc2"]},
    ),
    mistake(
        "normed residual of the MLP: the MLP's output is added to its normed input, not to the "
        "input",
        rewrite={"mlp_residual": lambda at, _: at["mlp_ln"] + at["mlp.fc2"]},
    ),
    mistake(
        "stale residual: the MLP's output is added to the block's input, and what attention has "
        "added is lost",
        rewrite={"mlp_residual": lambda at, _: at.block_input + at["mlp.fc2"]},
    ),
    mistake(
        "MLP left out: the blocks are their attention alone",
        rewrite={"mlp_residual": lambda at, _: at["attn_residual"]},
    ),
    mistake(
        "blocks left out: the blocks' input is their output",
        rewrite={"mlp_residual": lambda at, _: at.block_input},
    ),
    mistake(
        "first block left out: the blocks are counted from 1",
        rewrite={"mlp_residual": lambda at, x: x if at.number else at.block_input},
    ),
    "block.1.attn_ln",
    mistake(
        "one block's weights for all: every block has the weights of block 0: a loader's index "
        "that never moves",
        weights=wrong.first_block,
    ),
    "ln_post",
    mistake(
        "last block left out: the output of the last block but one is normed",
        rewrite={"ln_post": lambda at, _: parts.layer_norm(at.block_input, at.model.ln_post)},
    ),
    mistake(
        "no final norm: the last block's output is returned without ln_post",
        rewrite={"ln_post": lambda at, _: at["mlp_residual"]},
    ),
    mistake(
        "final norm twice: ln_post is applied twice: inside the encoder and outside",
        rewrite={"ln_post": lambda at, x: parts.layer_norm(x, at.model.ln_post)},
    ),
)


# Tried where no other entry fits: trained weights have values as large as that, formulas do not.
(OVERFLOW,) = catalogue(
    "block.0.attn_ln",
    mistake(
        "layer norm overflows in float16: the square of a deviation above 256 is infinite in "
        "float16, so that the variance is too and only the bias is left; compute the norm in "
        "float32",
        layer_norm=wrong.overflowing_norm,
    ),
)


# Mistakes of a kernel that only show on inputs made to show them: large offsets, huge scores.
KERNEL = catalogue(
    "block.0.attn_ln",
    mistake(
        "one-pass variance: E[x^2] - E[x]^2, which cancels when the mean is large; take the mean "
        "off first",
        seen="llm.c dev/cuda/layernorm_forward.cu, version 4",
        layer_norm=wrong.one_pass_norm,
    ),
    "block.0.attn.weights",
    mistake(
        "softmax without the maximum taken off: exp of the scores as they are, which overflows at "
        "88; take the row's maximum off first",
        softmax=lambda scores: scores.exp() / scores.exp().sum(-1, keepdim=True),
    ),
)
