"""One of half a million values is slightly wrong, which no mean over all of them can show."""

import torch.nn.functional as F


def layer_norm(x, weight, bias, eps=1e-5):
    out = F.layer_norm(x, weight.shape, weight, bias, eps)
    out[(-1,) * out.ndim] += 3e-4
    return out
