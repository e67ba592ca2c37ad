"""LayerNorm in numba: each row stays in the cache while it is read three times.

melfront benchmarks kernel layer_norm benchmarks/examples/layer_norm_numba.py
"""
# mypy: allow-untyped-defs

import numba
import numpy as np

ARRAYS = "numpy"

ROWS = numba.types.Array(numba.f4, 2, "C", readonly=True)
VECTOR = numba.types.Array(numba.f4, 1, "C", readonly=True)


# The signature makes numba compile when the file is loaded, not in the first call.
@numba.njit(numba.void(ROWS, VECTOR, VECTOR, numba.f4, numba.f4[:, ::1]), parallel=True)
def rows_normed(x, weight, bias, eps, out):
    n_rows, n = x.shape
    for r in numba.prange(n_rows):
        row = x[r]
        total = np.float64(0)
        for i in range(n):
            total += row[i]
        mean = np.float32(total / n)
        total = np.float64(0)
        for i in range(n):
            total += (row[i] - mean) ** 2
        scale = np.float32(1 / np.sqrt(total / n + eps))
        for i in range(n):
            out[r, i] = (row[i] - mean) * scale * weight[i] + bias[i]


def layer_norm(x, weight, bias, eps=1e-5):
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    out = np.empty(rows.shape, np.float32)
    rows_normed(rows, weight, bias, np.float32(eps), out)
    return out.reshape(x.shape)
