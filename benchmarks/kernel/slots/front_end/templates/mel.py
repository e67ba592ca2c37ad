from torch import Tensor


def mel(power: Tensor, filters: Tensor) -> Tensor:
    return filters @ power.mT
