import torch
from torch import Tensor


def log_scale(mel: Tensor) -> Tensor:
    log = mel.clamp(min=1e-10).log10()
    maximum = log.amax(dim=(-2, -1), keepdim=True)  # of each clip
    return (torch.maximum(log, maximum - 8) + 4) / 4
