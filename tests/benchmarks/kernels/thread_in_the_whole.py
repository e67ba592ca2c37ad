"""Starts a thread once it is in the encoder's place."""

import sys
import threading

import torch.nn.functional as F

WAIT = threading.Event()


def layer_norm(x, weight, bias, eps=1e-5):
    if "melfront.encoder" in sys.modules and threading.active_count() == 1:
        threading.Thread(target=WAIT.wait, daemon=True).start()
    return F.layer_norm(x, weight.shape, weight, bias, eps)
