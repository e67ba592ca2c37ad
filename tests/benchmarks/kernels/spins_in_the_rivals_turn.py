"""Correct, but a thread burns the CPU time that the rivals need."""

import threading

import torch.nn.functional as F


def burn():
    while True:
        sum(range(1000))


threading.Thread(target=burn, daemon=True).start()


def layer_norm(x, weight, bias, eps=1e-5):
    return F.layer_norm(x, weight.shape, weight, bias, eps)
