def layernorm(x, weight, bias):
    return x
