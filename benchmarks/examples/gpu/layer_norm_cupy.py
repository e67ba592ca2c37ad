"""LayerNorm in CUDA C by CuPy, a block for each row; float32 alone. On an H200 it was proved
right; its time is not verified on a GPU.

CuPy compiles it in its first call and, unless told otherwise, uses the stream that torch uses.
Tensors come and go by DLPack, which hands over the memory itself.

melfront benchmarks kernel layer_norm benchmarks/examples/gpu/layer_norm_cupy.py --device cuda
"""
# mypy: allow-untyped-defs

import cupy
import numpy as np
from torch.utils import dlpack

THREADS = 256  # of a block: a power of two, for the tree in `total`

SOURCE = """
__device__ double total(double mine, double *sums) {  // over the threads of a block
    sums[threadIdx.x] = mine;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    const double sum = sums[0];
    __syncthreads();  // before the next total writes there
    return sum;
}

extern "C" __global__ void layer_norm(const float *x, const float *weight, const float *bias,
                                      float eps, float *out, int n) {
    __shared__ double sums[THREADS];
    x += (long long)blockIdx.x * n;
    out += (long long)blockIdx.x * n;
    double sum = 0, square = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
    const float mean = total(sum, sums) / n;
    for (int i = threadIdx.x; i < n; i += blockDim.x) square += (x[i] - mean) * (x[i] - mean);
    const float scale = rsqrt(total(square, sums) / n + eps);
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}
"""

KERNEL = cupy.RawKernel(SOURCE, "layer_norm", options=(f"-DTHREADS={THREADS}",))


def layer_norm(x, weight, bias, eps=1e-5):
    x, weight, bias = (cupy.from_dlpack(t.detach().contiguous()) for t in (x, weight, bias))
    out = cupy.empty_like(x)
    n = x.shape[-1]
    KERNEL((x.size // n,), (THREADS,), (x, weight, bias, np.float32(eps), out, np.int32(n)))
    return dlpack.from_dlpack(out)
