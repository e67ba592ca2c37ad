import torch.nn.functional as F

CALLS = []


def layer_norm(x, weight, bias, eps=1e-5):
    CALLS.append(1)
    if len(CALLS) == 3:
        raise MemoryError("no more workspace")
    return F.layer_norm(x, weight.shape, weight, bias, eps)
