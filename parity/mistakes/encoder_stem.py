"""The encoder half of the catalogue, first part: the stem, the positions, the layer norms."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from encoder import formula

from . import wrong_ops as wrong
from .entry import encoder_mistake
from .wrong_ops import ZERO, each, position_table, renamed

STEM_AND_NORMS = [
    # --- stem -----------------------------------------------------------------------------------
    encoder_mistake(
        "flipped kernel",
        "conv1",
        "the kernels are applied back to front: a convolution as mathematicians define it, "
        "numpy.convolve, where all deep-learning libraries correlate",
        ops={"conv1d": wrong.flipped_conv1d},
    ),
    encoder_mistake(
        "causal convolution",
        "conv1",
        "two zeros before the sequence, instead of one before and one after",
        ops={"conv1d": wrong.causal_conv1d},
    ),
    encoder_mistake(
        "edges repeated by the convolutions",
        "conv1",
        "the convolutions are padded by repeating the edge, not with a zero",
        ops={"conv1d": wrong.edge_conv1d},
    ),
    encoder_mistake(
        "stride on the first convolution",
        "conv1",
        "the first convolution has stride 2 and the second 1; it is the other way round",
        ops={"conv1d": wrong.swapped_strides},
    ),
    encoder_mistake(
        "odd frames kept",
        "conv2",
        "the second convolution is centred on frames 1, 3, 5 ...: padding 'same' of TensorFlow "
        "and ONNX puts the zero after the sequence when the stride is 2",
        ops={"conv1d": wrong.late_conv1d},
    ),
    encoder_mistake(
        "convolution biases missing",
        "conv1",
        "conv1 and conv2 have no bias",
        weights=each(r"conv\d\.bias", ZERO),
    ),
    encoder_mistake(
        "no GELU after conv1",
        "gelu1",
        "the GELU after the first convolution is left out",
        rewrite={"gelu1": lambda at, _: at["conv1"]},
    ),
    encoder_mistake(
        "no GELU after conv2",
        "gelu2",
        "the GELU after the second convolution is left out",
        rewrite={"gelu2": lambda at, _: at["conv2"]},
    ),
    encoder_mistake(
        "tanh GELU",
        "gelu1",
        "GELU's tanh approximation; Whisper's is the exact one, with erf",
        "whisper.cpp, candle, tinygrad, TensorRT-LLM",
        ops={"gelu": wrong.tanh_gelu},
    ),
    encoder_mistake(
        "sigmoid GELU",
        "gelu1",
        "x sigmoid(1.702 x), CLIP's quick_gelu",
        ops={"gelu": wrong.quick_gelu},
    ),
    encoder_mistake("ReLU", "gelu1", "ReLU where GELU is meant", ops={"gelu": torch.relu}),
    encoder_mistake("SiLU", "gelu1", "SiLU where GELU is meant", ops={"gelu": functional.silu}),
    # --- positions ------------------------------------------------------------------------------
    encoder_mistake(
        "no positions",
        "positions",
        "the position table is not added",
        weights=each("positions", ZERO),
    ),
    encoder_mistake(
        "interleaved positions",
        "positions",
        "sine and cosine alternate, as in the Transformer paper; Whisper has all sines first",
        weights=each("positions", wrong.interleave_table),
    ),
    encoder_mistake(
        "cosine before sine",
        "positions",
        "the table's halves are swapped: cosines come first",
        weights=each("positions", lambda w: w.roll(w.shape[1] // 2, dims=1)),
    ),
    encoder_mistake(
        "positions recomputed",
        "positions",
        "the table is computed, not loaded: the stored one differs from the formula in the "
        "fourth digit",
        "candle, mlx-whisper, TensorRT-LLM compute it",
        weights=each("positions", lambda w: position_table(w, formula.sinusoids)),
    ),
    encoder_mistake(
        "positions of the Transformer paper",
        "positions",
        "10000^(j / half) as in the paper; Whisper has 10000^(j / (half - 1))",
        weights=each("positions", lambda w: position_table(w, wrong.other_base)),
    ),
    encoder_mistake(
        "positions from 1",
        "positions",
        "the first position gets the second row of the table",
        weights=each("positions", lambda w: w.roll(-1, dims=0)),
    ),
    encoder_mistake(
        "positions scaled",
        "positions",
        "the features are multiplied by sqrt(state) before the positions are added: "
        "scale_embedding, which Whisper has switched off",
        rewrite={
            "positions": lambda at, x: x + (math.sqrt(x.shape[2]) - 1) * at["gelu2"].transpose(1, 2)
        },
    ),
    # --- layer norm -----------------------------------------------------------------------------
    encoder_mistake(
        "eps of 1e-6",
        "block.0.attn_ln",
        "the layer norms' eps is 1e-6, Keras' or T5's, not 1e-5",
        ops={"layer_norm": wrong.norm_with_eps(1e-6)},
    ),
    encoder_mistake(
        "eps of 1e-12",
        "block.0.attn_ln",
        "the layer norms' eps is 1e-12, BERT's, not 1e-5",
        ops={"layer_norm": wrong.norm_with_eps(1e-12)},
    ),
    encoder_mistake(
        "eps of 1e-3",
        "block.0.attn_ln",
        "the layer norms' eps is 1e-3, Keras' default, not 1e-5",
        ops={"layer_norm": wrong.norm_with_eps(1e-3)},
    ),
    encoder_mistake(
        "eps outside the root",
        "block.0.attn_ln",
        "eps is added to the standard deviation",
        ops={"layer_norm": wrong.eps_outside},
    ),
    encoder_mistake(
        "unbiased variance",
        "block.0.attn_ln",
        "the layer norms divide by S - 1, as torch.var does unless told otherwise",
        ops={"layer_norm": wrong.unbiased_norm},
    ),
    encoder_mistake(
        "RMS norm",
        "block.0.attn_ln",
        "the layer norms do not take off the mean",
        ops={"layer_norm": wrong.rms_norm},
    ),
    encoder_mistake(
        "layer norms without bias",
        "block.0.attn_ln",
        "the layer norms' biases are left out",
        ops={"layer_norm": wrong.norm_without_bias},
    ),
    encoder_mistake(
        "layer norms without scale",
        "block.0.attn_ln",
        "the layer norms' weights are left out",
        ops={"layer_norm": wrong.norm_without_scale},
    ),
    encoder_mistake(
        "layer norms swapped",
        "block.0.attn_ln",
        "attention has the norm of the MLP and the MLP that of attention: in transformers' names "
        "the MLP's is final_layer_norm",
        weights=renamed(wrong.swapped_norms),
    ),
    encoder_mistake(
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
]
