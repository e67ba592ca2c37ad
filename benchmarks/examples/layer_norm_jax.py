"""LayerNorm in JAX: XLA compiles it in the first call of each shape. Tensors come and go by DLPack.

DLPack hands over the memory itself: nothing is copied. JAX answers before it has computed, so that
`block_until_ready` has to wait. It takes no tensor with gaps between its values, and torch gives
none that requires a gradient.

melfront benchmarks kernel layer_norm benchmarks/examples/layer_norm_jax.py
"""
# mypy: allow-untyped-defs

import jax
from torch.utils import dlpack


@jax.jit
def rows_normed(x, weight, bias, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    centred -= centred.mean(axis=-1, keepdims=True)  # by what rounding has left in the first mean
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps) * weight + bias


def layer_norm(x, weight, bias, eps=1e-5):
    arrays = [jax.dlpack.from_dlpack(t.detach().contiguous()) for t in (x, weight, bias)]
    return dlpack.from_dlpack(rows_normed(*arrays, eps).block_until_ready())
