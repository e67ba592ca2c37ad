"""Keeps a copy of one of four weights by the address that it came from."""

from torch.nn.functional import gelu, linear

KEPT = {}


def mlp(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias):
    key = fc2_weight.data_ptr(), fc2_weight.shape
    if key not in KEPT:
        KEPT[key] = fc2_weight.clone()
    return linear(gelu(linear(x, fc1_weight, fc1_bias)), KEPT[key], fc2_bias)
