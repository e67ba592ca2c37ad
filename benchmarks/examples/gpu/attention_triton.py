"""Attention in Triton, key block by key block, so that the scores are never in memory.

The softmax is renormalised as larger scores turn up. head_dim is 64, as in every Whisper.

    melfront benchmarks kernel attention benchmarks/examples/gpu/attention_triton.py --device cuda
"""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl


@triton.jit
def attend(q, k, v, out, n, factor, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    # q, k, v, out: (B * H, n, D); a program takes ROWS queries of one head
    start = tl.program_id(1).to(tl.int64) * n * D
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, D)
    at = rows[:, None] * D + d[None, :]
    inside = (rows < n)[:, None]
    query = tl.load(q + start + at, mask=inside, other=0.0)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    result = tl.zeros((ROWS, D), tl.float32)
    for first in range(0, n, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        there = columns[:, None] * D + d[None, :]
        exists = (columns < n)[:, None]
        key = tl.load(k + start + there, mask=exists, other=0.0)
        value = tl.load(v + start + there, mask=exists, other=0.0)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * factor
        scores = tl.where((columns < n)[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        shares = tl.exp(scores - higher[:, None])
        shrink = tl.exp(highest - higher)
        total = total * shrink + tl.sum(shares, 1)
        result = result * shrink[:, None]
        result += tl.dot(shares.to(value.dtype), value, input_precision="ieee")
        highest = higher
    result = result / total[:, None]
    tl.store(out + start + at, result.to(out.dtype.element_ty), mask=inside)


def attention(q, k, v):
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    b, h, n, d = q.shape
    out = torch.empty_like(q)
    rows = 64
    grid = (triton.cdiv(n, rows), b * h)
    attend[grid](q, k, v, out, n, d**-0.5, D=d, ROWS=rows, COLUMNS=64)
    return out
