from torch import Tensor
from torch.nn import functional


# With a function `prepare` of the weights, called once per set: conv1d_gelu(x, prepared, stride)
def conv1d_gelu(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return functional.gelu(functional.conv1d(x, weight, bias, stride=stride, padding=1))
