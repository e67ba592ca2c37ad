import torch
import torch.nn.functional as F


def layer_norm(x, weight, bias, eps=1e-5):
    rows = x.reshape(-1, x.shape[-1])
    out = torch.empty_like(rows)
    out[:-1] = F.layer_norm(rows[:-1], weight.shape, weight, bias, eps)
    return out.view(x.shape)
