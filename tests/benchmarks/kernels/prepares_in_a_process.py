"""Leaves a process behind when `prepare` has returned."""

import os
import time

import torch.nn.functional as F


def prepare(weight, bias):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    return weight, bias


def layer_norm(x, prepared, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], *prepared, eps)
