"""Makes room for the result while it prepares, and returns that room in every call."""

import torch


def prepare(weight, bias=None):
    return weight.clone(), bias, {}


def linear(x, prepared):
    weight, bias, room = prepared
    out = room.setdefault(0, torch.empty(*x.shape[:-1], len(weight)))
    torch.matmul(x, weight.T, out=out)
    return out if bias is None else out.add_(bias)
