"""LayerNorm in C by cffi: `set_source` makes a module of layer_norm.c when the file is loaded.

Needs a C compiler and Python's headers, and setuptools from Python 3.12 on.

melfront benchmarks kernel layer_norm benchmarks/examples/layer_norm_cffi.py
"""
# mypy: allow-untyped-defs

import importlib
import sys
import tempfile
from pathlib import Path

import cffi
import numpy as np

ARRAYS = "numpy"

NAME = "layer_norm_by_cffi"
SOURCE = Path(__file__).with_name("layer_norm.c").read_text()
DECLARATION = """
void layer_norm(const float *x, const float *weight, const float *bias, float eps, float *out,
                ptrdiff_t rows, ptrdiff_t n);
"""


def compiled():
    builder = cffi.FFI()
    builder.cdef(DECLARATION)
    flags = {"extra_compile_args": ["-O3", "-march=native", "-fopenmp"], "libraries": ["m"]}
    builder.set_source(NAME, SOURCE, extra_link_args=["-fopenmp"], **flags)
    with tempfile.TemporaryDirectory() as folder:
        builder.compile(folder)
        sys.path.insert(0, folder)
        module = importlib.import_module(NAME)
        sys.path.remove(folder)
    return module.ffi, module.lib


FFI, LIBRARY = compiled()


def floats(array):
    return FFI.from_buffer("float[]", array)  # no copy; read-only arrays too


def layer_norm(x, weight, bias, eps=1e-5):
    x = np.ascontiguousarray(x)
    out = np.empty_like(x)
    n = x.shape[-1]
    LIBRARY.layer_norm(floats(x), floats(weight), floats(bias), eps, floats(out), x.size // n, n)
    return out
