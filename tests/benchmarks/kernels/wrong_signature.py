def layer_norm(x, weight):
    return x
