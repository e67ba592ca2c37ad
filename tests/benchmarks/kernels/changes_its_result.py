"""Keeps the result that it returned, and writes into it in the next call."""

import torch.nn.functional as F

LAST = []


def layer_norm(x, weight, bias, eps=1e-5):
    for last in LAST:
        last.zero_()
    LAST[:] = [F.layer_norm(x, weight.shape, weight, bias, eps)]
    return LAST[0]
