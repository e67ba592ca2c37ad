from torch import Tensor
from torch.nn.functional import linear


# With a function `prepare` of the weights, called once per set: qkv(x, prepared)
def qkv(
    x: Tensor, q_weight: Tensor, q_bias: Tensor, k_weight: Tensor, v_weight: Tensor, v_bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return linear(x, q_weight, q_bias), linear(x, k_weight), linear(x, v_weight, v_bias)
