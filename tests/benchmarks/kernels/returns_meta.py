import torch


def layer_norm(x, weight, bias, eps=1e-5):
    return torch.empty(x.shape, device="meta")
