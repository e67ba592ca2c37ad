from torch import Tensor


# With a function `prepare` of the weights, called once per set: mel(power, prepared)
def mel(power: Tensor, filters: Tensor) -> Tensor:
    return filters @ power.mT
