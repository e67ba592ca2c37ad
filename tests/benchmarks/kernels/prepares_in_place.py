"""Adds the bias's mean to the weight itself, and takes it off again in the call."""

import torch.nn.functional as F


def prepare(weight, bias):
    mean = bias.mean()
    weight += mean
    return weight, bias, mean


def layer_norm(x, prepared, eps=1e-5):
    weight, bias, mean = prepared
    return F.layer_norm(x, x.shape[-1:], weight - mean, bias, eps)
