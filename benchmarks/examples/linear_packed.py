"""A linear map whose weight is transposed once per set of weights, which is not in the time.

melfront benchmarks kernel linear benchmarks/examples/linear_packed.py
"""
# mypy: allow-untyped-defs

import torch


def prepare(weight, bias=None):
    return weight.T.contiguous(), bias


def linear(x, prepared):
    transposed, bias = prepared
    rows = x.reshape(-1, x.shape[-1])
    out = rows @ transposed if bias is None else torch.addmm(bias, rows, transposed)
    return out.view(*x.shape[:-1], -1)
