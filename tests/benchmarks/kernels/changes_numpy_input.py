import numpy as np

ARRAYS = "numpy"


def layer_norm(x, weight, bias, eps=1e-5):
    x -= x.mean(axis=-1, keepdims=True)
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(eps)) * weight + bias
