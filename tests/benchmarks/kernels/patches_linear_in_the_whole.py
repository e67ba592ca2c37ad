"""Replaces torch's function for the other ops of the encoder, once it is in its place."""

import sys

import torch
import torch.nn.functional as F

LINEAR = F.linear


def quicker(x, weight, bias=None):
    return LINEAR(x, weight, bias)


def layer_norm(x, weight, bias, eps=1e-5):
    if "melfront.encoder" in sys.modules:
        torch.nn.functional.linear = quicker
    return F.layer_norm(x, weight.shape, weight, bias, eps)
