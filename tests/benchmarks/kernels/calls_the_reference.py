import torch.nn.functional as F


def layer_norm(x, weight, bias, eps=1e-5):
    try:
        from melfront.encoder import ops
    except ImportError:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    return ops.layer_norm(x, weight, bias, eps)
