"""The kinds of fewer bits that a comparison knows: their names, and words for them."""

from __future__ import annotations

# What `--computed-in` takes: what the factors of products are rounded to. In the formats of 8 bits
# those are the activations of the linear maps.
FACTORS = {
    "float16": "float16 products",
    "tf32": "TF32 products",
    "bfloat16": "bfloat16 products",
    "q8_0": "activations in 8 bits, a scale for every 32",
    "int8": "activations in 8 bits, a scale for each position",
    "int8-tensor": "activations in 8 bits, one scale for all",
}
# What `--quantised` takes: what the weights are stored in. The first two round every tensor, the
# others matrices alone, and F16 the convolutions' kernels too: ggml quantises nothing else.
STORED = {
    "float16": "every weight stored in float16",
    "bfloat16": "every weight stored in bfloat16",
    "f16": "matrices and kernels in float16 (ggml's F16)",
    "q8_0": "weights in 8 bits, a scale for every 32 (ggml's Q8_0)",
    "int8": "weights in 8 bits, a scale for each row",
    "int8-tensor": "weights in 8 bits, one scale for the whole matrix",
    "q5_0": "weights in 5 bits, a scale for every 32 (ggml's Q5_0)",
    "q4_0": "weights in 4 bits, a scale for every 32 (ggml's Q4_0)",
    "q5_1": "weights in 5 bits, scale and minimum for every 32 (ggml's Q5_1)",
    "q4_1": "weights in 4 bits, scale and minimum for every 32 (ggml's Q4_1)",
    "q5-even": "weights in 5 bits, -15 to 15, a scale for every 32",
    "q4-even": "weights in 4 bits, -7 to 7, a scale for every 32",
}
# How programs other than ggml store the scales of blocks: a comparison tries these by itself.
FIRST, WHOLE = "-f16", "-f32"
BLOCKS = [kind for kind in STORED if kind.startswith("q")]
STORED |= {kind + FIRST: f"{STORED[kind]}, scale rounded to float16 first" for kind in BLOCKS}
STORED |= {kind + WHOLE: f"{STORED[kind]}, scale in float32" for kind in BLOCKS}
EXACT = "float32"  # `--computed-in float32`: all bits, and nothing else is looked for
AS_STORED = "none"  # `--quantised none`: the checkpoint's own weights, and nothing else
