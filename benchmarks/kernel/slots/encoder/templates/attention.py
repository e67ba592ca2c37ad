import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.mT  # (B, H, T, T)
    return torch.softmax(scores, dim=-1) @ v
