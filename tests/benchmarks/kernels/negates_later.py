"""Returns a tensor that torch negates when it is read."""

import torch
import torch.nn.functional as F


def layer_norm(x, weight, bias, eps=1e-5):
    return torch._neg_view(F.layer_norm(x, weight.shape, -weight, -bias, eps))
