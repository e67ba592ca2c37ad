import torch
import torch.nn.functional as F

BUFFERS = {}


def layer_norm(x, weight, bias, eps=1e-5):
    out = BUFFERS.setdefault(tuple(x.shape), torch.empty(x.shape, device=x.device))
    out.copy_(F.layer_norm(x, weight.shape, weight, bias, eps))
    return out
