"""Returns memory that another process could map and change."""

import mmap

import torch
import torch.nn.functional as F


def layer_norm(x, weight, bias, eps=1e-5):
    out = torch.frombuffer(mmap.mmap(-1, 4 * x.numel()), dtype=x.dtype).view(x.shape)
    return out.copy_(F.layer_norm(x, weight.shape, weight, bias, eps))
