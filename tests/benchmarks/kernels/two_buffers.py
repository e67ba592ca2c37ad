"""Returns two buffers in turn: each call overwrites the result of the last but one."""

import torch.nn.functional as F

BUFFERS = {}


def layer_norm(x, weight, bias, eps=1e-5):
    out = F.layer_norm(x, weight.shape, weight, bias, eps)
    ring = BUFFERS.setdefault(tuple(x.shape), [out.clone(), out.clone()])
    ring.reverse()
    return ring[0].copy_(out)
