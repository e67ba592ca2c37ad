"""LayerNorm from a shared library: built beforehand, in C or anything else, and loaded by ctypes.

Build it once, in this folder, then prove and time it:

    cc -O3 -march=native -fopenmp -shared -fPIC -o layer_norm.so layer_norm.c -lm
    melfront benchmarks kernel layer_norm benchmarks/examples/layer_norm_library.py
"""
# mypy: allow-untyped-defs

import ctypes
from pathlib import Path

import torch

BUILD = "cc -O3 -march=native -fopenmp -shared -fPIC -o layer_norm.so layer_norm.c -lm"

FILE = Path(__file__).with_name("layer_norm.so")
if not FILE.is_file():
    raise FileNotFoundError(f"no {FILE.name} next to this file; build it there with `{BUILD}`")
LIBRARY = ctypes.CDLL(str(FILE))
FLOATS, FLOAT, SIZE = ctypes.c_void_p, ctypes.c_float, ctypes.c_ssize_t
LIBRARY.layer_norm.argtypes = (FLOATS, FLOATS, FLOATS, FLOAT, FLOATS, SIZE, SIZE)
LIBRARY.layer_norm.restype = None


def layer_norm(x, weight, bias, eps=1e-5):
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    out = torch.empty_like(x)
    n = x.shape[-1]
    addresses = [t.data_ptr() for t in (x, weight, bias, out)]
    LIBRARY.layer_norm(*addresses[:3], eps, addresses[3], x.numel() // n, n)
    return out
