"""Its `prepare` never returns."""

import time


def prepare(weight, bias):
    time.sleep(600)


def layer_norm(x, prepared, eps=1e-5):
    return x.clone()
