"""The MLP in torch, with the first bias and the GELU done in place on what the product has left.

melfront benchmarks kernel mlp benchmarks/examples/mlp_torch.py
"""
# mypy: allow-untyped-defs

import torch


def mlp(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias):
    rows = x.reshape(-1, x.shape[-1])
    hidden = torch.addmm(fc1_bias, rows, fc1_weight.T)
    torch.ops.aten.gelu_(hidden)
    return torch.addmm(fc2_bias, hidden, fc2_weight.T).view(x.shape)
