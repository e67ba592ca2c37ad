"""The encoder half of the catalogue, first part: the stem, the positions, the layer norms."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from melfront.encoder import formula

from . import wrong_ops as wrong
from .entry import catalogue, encoder_mistake
from .wrong_ops import ZERO, each, position_table, renamed

STEM_AND_NORMS = catalogue(
    "conv1",
    encoder_mistake(
        "flipped kernel",
        "the kernels are applied back to front: a convolution as mathematicians define it, "
        "numpy.convolve, where all deep-learning libraries correlate",
        ops={"conv1d": wrong.flipped_conv1d},
    ),
    encoder_mistake(
        "causal convolution",
        "two zeros before the sequence, instead of one before and one after",
        ops={"conv1d": wrong.causal_conv1d},
    ),
    encoder_mistake(
        "edges repeated by the convolutions",
        "the convolutions are padded by repeating the edge, not with a zero",
        ops={"conv1d": wrong.edge_conv1d},
    ),
    encoder_mistake(
        "stride on the first convolution",
        "the first convolution has stride 2 and the second 1; it is the other way round",
        ops={"conv1d": wrong.swapped_strides},
    ),
    encoder_mistake(
        "convolution biases missing",
        "conv1 and conv2 have no bias",
        weights=each(r"conv\d\.bias", ZERO),
    ),
    encoder_mistake(
        "weights in bfloat16",
        "the weights were rounded to bfloat16 on their way",
        weights=each("weight", lambda w: w.bfloat16().to(w)),
    ),
    encoder_mistake(
        "weights in float16",
        "the weights were rounded to float16 on their way; a float16 checkpoint has lost nothing",
        "whisper.cpp convert-h5-to-ggml.py",
        weights=each("weight", lambda w: w.half().to(w)),
    ),
    "gelu1",
    encoder_mistake(
        "no GELU after conv1",
        "the GELU after the first convolution is left out",
        rewrite={"gelu1": lambda at, _: at["conv1"]},
    ),
    encoder_mistake(
        "tanh GELU",
        "GELU's tanh approximation; Whisper's is the exact one, with erf",
        "whisper.cpp, candle, tinygrad, TensorRT-LLM",
        ops={"gelu": wrong.tanh_gelu},
    ),
    encoder_mistake(
        "sigmoid GELU", "x sigmoid(1.702 x), CLIP's quick_gelu", ops={"gelu": wrong.quick_gelu}
    ),
    encoder_mistake("ReLU", "ReLU where GELU is meant", ops={"gelu": torch.relu}),
    encoder_mistake("SiLU", "SiLU where GELU is meant", ops={"gelu": functional.silu}),
    "conv2",
    encoder_mistake(
        "odd frames kept",
        "the second convolution is centred on frames 1, 3, 5 ...: padding 'same' of TensorFlow "
        "and ONNX puts the zero after the sequence when the stride is 2",
        ops={"conv1d": wrong.late_conv1d},
    ),
    "gelu2",
    encoder_mistake(
        "no GELU after conv2",
        "the GELU after the second convolution is left out",
        rewrite={"gelu2": lambda at, _: at["conv2"]},
    ),
    "positions",
    encoder_mistake(
        "no positions", "the position table is not added", weights=each("positions", ZERO)
    ),
    encoder_mistake(
        "interleaved positions",
        "sine and cosine alternate, as in the Transformer paper; Whisper has all sines first",
        weights=each("positions", wrong.interleave_table),
    ),
    encoder_mistake(
        "cosine before sine",
        "the table's halves are swapped: cosines come first",
        weights=each("positions", lambda w: w.roll(w.shape[1] // 2, dims=1)),
    ),
    encoder_mistake(
        "positions recomputed",
        "the table is computed, not loaded: the stored one differs from the formula in the "
        "fourth digit",
        "candle, mlx-whisper, TensorRT-LLM compute it",
        weights=each("positions", lambda w: position_table(w, formula.sinusoids)),
    ),
    encoder_mistake(
        "positions of the Transformer paper",
        "10000^(j / half) as in the paper; Whisper has 10000^(j / (half - 1))",
        weights=each("positions", lambda w: position_table(w, wrong.other_base)),
    ),
    encoder_mistake(
        "positions from 1",
        "the first position gets the second row of the table",
        weights=each("positions", lambda w: w.roll(-1, dims=0)),
    ),
    encoder_mistake(
        "positions scaled",
        "the features are multiplied by sqrt(state) before the positions are added: "
        "scale_embedding, which Whisper has switched off",
        rewrite={
            "positions": lambda at, x: x + (math.sqrt(x.shape[2]) - 1) * at["gelu2"].transpose(1, 2)
        },
    ),
    "block.0.attn_ln",
    encoder_mistake(
        "eps of 1e-6",
        "the layer norms' eps is 1e-6, Keras' or T5's, not 1e-5",
        ops={"layer_norm": wrong.norm_with_eps(1e-6)},
    ),
    encoder_mistake(
        "eps of 1e-12",
        "the layer norms' eps is 1e-12, BERT's, not 1e-5",
        ops={"layer_norm": wrong.norm_with_eps(1e-12)},
    ),
    encoder_mistake(
        "eps of 1e-3",
        "the layer norms' eps is 1e-3, Keras' default, not 1e-5",
        ops={"layer_norm": wrong.norm_with_eps(1e-3)},
    ),
    encoder_mistake(
        "eps outside the root",
        "eps is added to the standard deviation",
        ops={"layer_norm": wrong.eps_outside},
    ),
    encoder_mistake(
        "unbiased variance",
        "the layer norms divide by S - 1, as torch.var does unless told otherwise",
        ops={"layer_norm": wrong.unbiased_norm},
    ),
    encoder_mistake(
        "RMS norm", "the layer norms do not take off the mean", ops={"layer_norm": wrong.rms_norm}
    ),
    encoder_mistake(
        "layer norms without bias",
        "the layer norms' biases are left out",
        ops={"layer_norm": wrong.norm_without_bias},
    ),
    encoder_mistake(
        "layer norms without scale",
        "the layer norms' weights are left out",
        ops={"layer_norm": wrong.norm_without_scale},
    ),
    encoder_mistake(
        "layer norms swapped",
        "attention has the norm of the MLP and the MLP that of attention: in transformers' names "
        "the MLP's is final_layer_norm",
        weights=renamed(wrong.swapped_norms),
    ),
    encoder_mistake(
        "post-norm",
        "the norms come after the additions, as in BERT; Whisper norms what goes into attention "
        "and MLP",
        rewrite={
            "attn_ln": lambda at, _: at.block_input,
            "attn_residual": lambda at, x: at.norm(x, "attn_ln"),
            "mlp_ln": lambda at, _: at["attn_residual"],
            "mlp_residual": lambda at, x: at.norm(x, "mlp_ln"),
        },
    ),
    encoder_mistake(
        "blocks in reverse order",
        "the last block's weights come first",
        weights=renamed(wrong.reversed_block),
    ),
)
