"""Leaves the process while it prepares."""

import os


def prepare(weight, bias):
    os._exit(3)


def layer_norm(x, prepared, eps=1e-5):
    return x.clone()
