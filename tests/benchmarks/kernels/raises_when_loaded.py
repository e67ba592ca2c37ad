import a_package_that_nobody_has  # noqa: F401  # must fail


def layer_norm(x, weight, bias, eps=1e-5):
    return x
