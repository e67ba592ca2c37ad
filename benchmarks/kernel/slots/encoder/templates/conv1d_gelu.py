from torch import Tensor
from torch.nn import functional


def conv1d_gelu(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return functional.gelu(functional.conv1d(x, weight, bias, stride=stride, padding=1))
