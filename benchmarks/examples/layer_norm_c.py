"""LayerNorm in C: compiled by the system's compiler when the file is loaded, called with ctypes.

melfront benchmarks kernel layer_norm benchmarks/examples/layer_norm_c.py
"""
# mypy: allow-untyped-defs

import ctypes
import os
import subprocess
import tempfile

import numpy as np

ARRAYS = "numpy"

SOURCE = """
#include <math.h>
#include <stddef.h>

void layer_norm(const float *x, const float *weight, const float *bias, float eps, float *out,
                ptrdiff_t rows, ptrdiff_t n) {
    #pragma omp parallel for
    for (ptrdiff_t r = 0; r < rows; r++) {
        const float *in = x + r * n;
        float *to = out + r * n;
        double sum = 0, square = 0;
        #pragma omp simd reduction(+ : sum)
        for (ptrdiff_t i = 0; i < n; i++) sum += in[i];
        const float mean = (float)(sum / n);
        #pragma omp simd reduction(+ : square)
        for (ptrdiff_t i = 0; i < n; i++) square += (in[i] - mean) * (in[i] - mean);
        const float scale = (float)(1 / sqrt(square / n + eps));
        #pragma omp simd
        for (ptrdiff_t i = 0; i < n; i++) to[i] = (in[i] - mean) * scale * weight[i] + bias[i];
    }
}
"""

FLAGS = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-x", "c", "-", "-lm"]


def compiled():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "layer_norm.so")
        command = [os.environ.get("CC", "cc"), "-o", path, *FLAGS]
        subprocess.run(command, input=SOURCE.encode(), check=True)
        return ctypes.CDLL(path)


LIBRARY = compiled()
FLOATS = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")
LIBRARY.layer_norm.argtypes = [FLOATS] * 3 + [ctypes.c_float, FLOATS] + [ctypes.c_ssize_t] * 2
LIBRARY.layer_norm.restype = None


def layer_norm(x, weight, bias, eps=1e-5):
    x = np.ascontiguousarray(x)
    out = np.empty_like(x)
    n = x.shape[-1]
    LIBRARY.layer_norm(x, weight, bias, eps, out, x.size // n, n)
    return out
