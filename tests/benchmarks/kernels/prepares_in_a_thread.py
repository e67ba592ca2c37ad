"""Has a thread at work when `prepare` has returned."""

import threading

import torch.nn.functional as F


def burn():
    while True:
        sum(range(1000))


def prepare(weight, bias):
    threading.Thread(target=burn, daemon=True).start()
    return weight, bias


def layer_norm(x, prepared, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], *prepared, eps)
