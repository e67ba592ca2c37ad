"""The encoder half of the catalogue, first part: the stem, the positions, the layer norms."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from melfront.encoder import formula, ops, parts

from . import wrong_ops as wrong
from .entry import catalogue
from .entry import encoder_mistake as mistake
from .wrong_ops import each, padded_conv1d, without

STEM_AND_NORMS = catalogue(
    "conv1",
    mistake(
        "flipped kernel: the kernels are applied back to front: a convolution as mathematicians "
        "define it, numpy.convolve, where all deep-learning libraries correlate",
        conv1d=lambda x, w, b, stride: ops.conv1d(x, w.flip(-1), b, stride),
    ),
    mistake(
        "causal convolution: two zeros before the sequence, instead of one before and one after",
        conv1d=padded_conv1d(lambda x, _: functional.pad(x, (2, 0))),
    ),
    mistake(
        "edges repeated by the convolutions: the convolutions are padded by repeating the edge, "
        "not with a zero",
        conv1d=padded_conv1d(lambda x, _: functional.pad(x, (1, 1), mode="replicate")),
    ),
    mistake(
        "edges mirrored by the convolutions: the convolutions are padded by mirroring the "
        "sequence, as the waveform is, not with a zero",
        conv1d=padded_conv1d(lambda x, _: functional.pad(x, (1, 1), mode="reflect")),
    ),
    mistake(
        "kernels in another layout: the kernels are read as (out, 3, in), as MLX and TensorFlow "
        "hold them, from a file that holds (out, in, 3)",
        weights=each(r"conv\d\.weight", lambda w: w.reshape(len(w), 3, -1).mT.contiguous()),
    ),
    mistake(
        "stride on the first convolution: the first convolution has stride 2 and the second 1; it "
        "is the other way round",
        conv1d=lambda x, w, b, stride: ops.conv1d(x, w, b, stride=3 - stride),
    ),
    mistake(
        "convolution biases missing: conv1 and conv2 have no bias",
        weights=without(r"conv\d\.bias"),
    ),
    mistake(
        "weights in bfloat16: the weights were rounded to bfloat16 on their way",
        weights=each("weight", lambda w: w.bfloat16().to(w)),
    ),
    mistake(
        "weights in float16: the weights were rounded to float16 on their way; a float16 "
        "checkpoint has lost nothing",
        seen="whisper.cpp convert-h5-to-ggml.py",
        weights=each("weight", lambda w: w.half().to(w)),
    ),
    "gelu1",
    mistake(
        "no GELU after conv1: the GELU after the first convolution is left out",
        rewrite={"gelu1": lambda at, _: at["conv1"]},
    ),
    mistake(
        "tanh GELU: GELU's tanh approximation; Whisper's is the exact one, with erf",
        seen="whisper.cpp, candle, tinygrad, TensorRT-LLM",
        gelu=lambda x: functional.gelu(x, approximate="tanh"),
    ),
    mistake(
        "sigmoid GELU: x sigmoid(1.702 x), CLIP's quick_gelu",
        gelu=lambda x: x * torch.sigmoid(1.702 * x),
    ),
    mistake("ReLU: ReLU where GELU is meant", gelu=torch.relu),
    mistake("SiLU: SiLU where GELU is meant", gelu=functional.silu),
    mistake(
        "erf of three terms: erf is the polynomial 7.1.25 of Abramowitz and Stegun, which is "
        "2.5e-5 off; 7.1.26, with five terms, is good enough",
        gelu=lambda x: x * (1 + wrong.erf_of_three_terms(x / math.sqrt(2))) / 2,
    ),
    mistake(
        "erf without exp: erf is the formula 7.1.27 of Abramowitz and Stegun, which is 5e-4 off; "
        "7.1.26 is good enough",
        gelu=lambda x: x * (1 + wrong.erf_without_exp(x / math.sqrt(2))) / 2,
    ),
    mistake(
        "erf of x: GELU is x (1 + erf(x)) / 2, where x / sqrt(2) is meant",
        gelu=lambda x: x * (1 + torch.erf(x)) / 2,
    ),
    mistake(
        "GELU without the half: GELU is x (1 + erf(x / sqrt(2))), twice what it should be",
        gelu=lambda x: 2 * functional.gelu(x),
    ),
    mistake(
        "bias after the GELU: the biases of the convolutions and of fc1 are added after the GELU",
        rewrite={
            "gelu1": lambda at, _: wrong.biased_after(at["conv1"], at.model.conv1.bias[:, None]),
            "gelu2": lambda at, _: wrong.biased_after(at["conv2"], at.model.conv2.bias[:, None]),
            "mlp.gelu": lambda at, _: wrong.biased_after(at["mlp.fc1"], at.block.mlp.fc1.bias),
        },
    ),
    "conv2",
    mistake(
        "odd frames kept: the second convolution is centred on frames 1, 3, 5 ...: padding 'same' "
        "of TensorFlow and ONNX puts the zero after the sequence when the stride is 2",
        conv1d=padded_conv1d(lambda x, stride: functional.pad(x, (2 - stride, stride))),
    ),
    mistake(
        "conv2 transposed: the second convolution has its channels in and out swapped; there are "
        "as many, so nothing complains",
        weights=each(r"conv2\.weight", lambda w: w.transpose(0, 1).contiguous()),
    ),
    "gelu2",
    mistake(
        "no GELU after conv2: the GELU after the second convolution is left out",
        rewrite={"gelu2": lambda at, _: at["conv2"]},
    ),
    "positions",
    mistake("no positions: the position table is not added", weights=without("positions")),
    mistake(
        "positions added twice: the position table is added twice: in the stem and before the "
        "first block",
        weights=each("positions", lambda w: 2 * w),
    ),
    mistake(
        "positions before the GELU: the position table is added before the second GELU",
        rewrite={"positions": lambda at, x: ops.gelu(at["conv2"].mT + wrong.table(at, x))},
    ),
    mistake(
        "channels reshaped, not transposed: (S, T) is read as (T, S) after the convolutions; it "
        "should be transposed",
        rewrite={"positions": lambda at, x: at["gelu2"].reshape(x.shape) + wrong.table(at, x)},
    ),
    mistake(
        "final norm at the beginning: ln_post norms the first block's input, and not the last "
        "block's output",
        rewrite={
            "positions": lambda at, x: parts.layer_norm(x, at.model.ln_post),
            "ln_post": lambda at, _: at["mlp_residual"],
        },
    ),
    mistake(
        "interleaved positions: sine and cosine alternate, as in the Transformer paper; Whisper "
        "has all sines first",
        weights=each("positions", lambda w: w.unflatten(1, (2, -1)).mT.flatten(1)),
    ),
    mistake(
        "cosine before sine: the table's halves are swapped: cosines come first",
        weights=each("positions", lambda w: w.roll(w.shape[1] // 2, dims=1)),
    ),
    mistake(
        "positions recomputed: the table is computed, not loaded: the stored one differs from the "
        "formula in the fourth digit",
        seen="candle, mlx-whisper, TensorRT-LLM compute it",
        weights=each("positions", lambda w: torch.as_tensor(formula.sinusoids(*w.shape)).to(w)),
    ),
    mistake(
        "positions of the Transformer paper: 10000^(j / half) as in the paper; Whisper has "
        "10000^(j / (half - 1))",
        weights=each("positions", lambda w: wrong.other_base(*w.shape).to(w)),
    ),
    mistake(
        "positions from 1: the first position gets the second row of the table",
        weights=each("positions", lambda w: w.roll(-1, dims=0)),
    ),
    mistake(
        "positions scaled: the features are multiplied by sqrt(state) before the positions are "
        "added: scale_embedding, which Whisper has switched off",
        rewrite={
            "positions": lambda at, x: x + (math.sqrt(x.shape[2]) - 1) * at["gelu2"].transpose(1, 2)
        },
    ),
    "block.0.attn_ln",
    mistake(
        "eps of 1e-6: the layer norms' eps is 1e-6, Keras' or T5's, not 1e-5",
        layer_norm=lambda x, w, b, eps=0.0: ops.layer_norm(x, w, b, 1e-6),
    ),
    mistake(
        "eps of 1e-12: the layer norms' eps is 1e-12, BERT's, not 1e-5",
        layer_norm=lambda x, w, b, eps=0.0: ops.layer_norm(x, w, b, 1e-12),
    ),
    mistake(
        "eps of 1e-3: the layer norms' eps is 1e-3, Keras' default, not 1e-5",
        layer_norm=lambda x, w, b, eps=0.0: ops.layer_norm(x, w, b, 1e-3),
    ),
    mistake(
        "eps outside the root: eps is added to the standard deviation", layer_norm=wrong.eps_outside
    ),
    mistake(
        "unbiased variance: the layer norms divide by S - 1, as torch.var does unless told "
        "otherwise",
        layer_norm=wrong.unbiased_norm,
    ),
    mistake("RMS norm: the layer norms do not take off the mean", layer_norm=wrong.rms_norm),
    mistake(
        "layer norms left out: nothing is normed, neither in the blocks nor after them",
        layer_norm=lambda x, *_: x,
    ),
    mistake(
        "layer norms without bias: the layer norms' biases are left out",
        layer_norm=lambda x, w, b, eps=1e-5: ops.layer_norm(x, w, torch.zeros_like(b), eps),
    ),
    mistake(
        "layer norms without scale: the layer norms' weights are left out",
        layer_norm=lambda x, w, b, eps=1e-5: ops.layer_norm(x, torch.ones_like(w), b, eps),
    ),
    mistake(
        "layer norms swapped: attention has the norm of the MLP and the MLP that of attention: in "
        "transformers' names the MLP's is final_layer_norm",
        weights=wrong.swapped_norms,
    ),
    mistake(
        "post-norm: the norms come after the additions, as in BERT; Whisper norms what goes into "
        "attention and MLP",
        rewrite={
            "attn_ln": lambda at, _: at.block_input,
            "attn_residual": lambda at, x: parts.layer_norm(x, at.block.attn_ln),
            "mlp_ln": lambda at, _: at["attn_residual"],
            "mlp_residual": lambda at, x: parts.layer_norm(x, at.block.mlp_ln),
        },
    ),
    mistake(
        "blocks in reverse order: the last block's weights come first",
        weights=wrong.reversed_blocks,
    ),
)

# Not a decision, and so not in the list: `diagnosis` sees it in the values themselves.
(OTHER_WEIGHTS,) = catalogue(
    "conv1",
    mistake(
        "other or random weights: the values have nothing in common with the truth: these are not "
        "the weights of this model; from a whole Whisper checkpoint transformers' "
        "`WhisperEncoder.from_pretrained` loads nothing and leaves random ones",
    ),
)
