"""LayerNorm in Triton, a program for each row. On a CPU Triton's interpreter proves it.

melfront benchmarks kernel layer_norm benchmarks/examples/gpu/layer_norm_triton.py --device cuda
"""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl


@triton.jit
def row_normed(x, weight, bias, out, n, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    inside = i < n
    value = tl.load(x + row * n + i, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(value, 0) / n
    centred = tl.where(inside, value - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 0) / n + eps)
    w = tl.load(weight + i, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + i, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * n + i, (centred * scale * w + b).to(out.dtype.element_ty), mask=inside)


def layer_norm(x, weight, bias, eps=1e-5):
    x = x.contiguous()
    out = torch.empty_like(x)
    n = x.shape[-1]
    grid = (x.numel() // n,)
    row_normed[grid](x, weight, bias, out, n, eps, BLOCK=triton.next_power_of_2(n))
    return out
