"""The MLP with its first bias and GELU fused in Triton, so that the wide tensor is read once.

melfront benchmarks kernel mlp benchmarks/examples/gpu/mlp_triton.py --device cuda
"""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl


@triton.jit
def bias_gelu(x, bias, n, width, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    value = tl.load(x + i, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + i % width, mask=inside, other=0.0).to(tl.float32)
    value = 0.5 * value * (1 + tl.erf(value * 0.7071067811865476))  # sqrt(1/2)
    tl.store(x + i, value.to(x.dtype.element_ty), mask=inside)


def mlp(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias):
    hidden = x.reshape(-1, x.shape[-1]) @ fc1_weight.T
    n, block = hidden.numel(), 4096
    bias_gelu[(triton.cdiv(n, block),)](hidden, fc1_bias, n, hidden.shape[1], BLOCK=block)
    return torch.addmm(fc2_bias, hidden, fc2_weight.T).view(x.shape)
