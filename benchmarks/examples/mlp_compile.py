"""The MLP as torch.compile makes it: the first bias and the GELU in one loop of C++.

melfront benchmarks kernel mlp benchmarks/examples/mlp_compile.py
"""
# mypy: allow-untyped-defs

import torch
from torch.nn.functional import gelu, linear


@torch.compile
def mlp(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias):
    return linear(gelu(linear(x, fc1_weight, fc1_bias)), fc2_weight, fc2_bias)
