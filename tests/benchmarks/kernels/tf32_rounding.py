import torch


def tf32(x):
    raw = x.contiguous().view(torch.int32)
    return ((raw + 0x0FFF + ((raw >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def linear(x, weight, bias=None):
    out = tf32(x) @ tf32(weight).T
    return out if bias is None else out + bias
