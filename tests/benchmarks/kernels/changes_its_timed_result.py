"""Writes into a result a millisecond after it has returned it, once it is timed."""

import signal

import torch.nn.functional as F

CALLS, LAST = [], []


def change(*_):
    for last in LAST:
        last[0] = 0


signal.signal(signal.SIGALRM, change)


def layer_norm(x, weight, bias, eps=1e-5):
    CALLS.append(1)
    LAST[:] = [F.layer_norm(x, weight.shape, weight, bias, eps)]
    if len(CALLS) >= 45:
        signal.setitimer(signal.ITIMER_REAL, 0.002)
    return LAST[0]
