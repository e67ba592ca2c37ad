"""Lets the whole process multiply in fewer bits and flush small numbers, when loaded and called."""

import torch
import torch.nn.functional as F

torch.set_float32_matmul_precision("medium")


def layer_norm(x, weight, bias, eps=1e-5):
    torch.set_flush_denormal(True)
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    return F.layer_norm(x, weight.shape, weight, bias, eps)
