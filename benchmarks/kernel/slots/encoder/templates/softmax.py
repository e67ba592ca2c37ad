from torch import Tensor


def softmax(scores: Tensor) -> Tensor:
    weights = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    return weights / weights.sum(dim=-1, keepdim=True)
