"""Leaves a thread behind when `prepare` has returned."""

import threading
import time

import torch.nn.functional as F


def prepare(weight, bias):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    return weight, bias


def layer_norm(x, prepared, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], *prepared, eps)
