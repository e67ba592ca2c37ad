"""Its `prepare` takes no second set of weights."""

import torch.nn.functional as F

CALLS = []


def prepare(weight, bias):
    CALLS.append(1)
    if len(CALLS) == 2:
        raise ValueError("one set of weights only")
    return weight, bias


def layer_norm(x, prepared, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], *prepared, eps)
