"""A fixed sample of a tensor's positions, the same in every dump and on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from melfront.encoder import formula

from ..noise import Array

N_SAMPLES = 256


def sample_positions(stage: str, size: int, count: int = N_SAMPLES) -> NDArray[np.int64]:
    """256 indices into a flattened tensor of this stage and size, or all if it has no more.

    Element j is the j-th number of the splitmix64 sequence whose seed is the FNV-1a of the stage's
    name (`encoder.formula`), modulo size. (count,) int64.
    """
    if size <= count:
        return np.arange(size)
    drawn = formula.mix(0, count, formula.seed(stage)) % np.uint64(size)
    return drawn.astype(np.int64)


def at_positions(stage: str, values: Array, count: int = N_SAMPLES) -> Array:
    """The values at `sample_positions` of a tensor of any shape: (count,) or fewer."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat[sample_positions(stage, flat.size, count)]


def as_real(tensor: Array) -> Array:
    """Complex (...) to real (..., 2), which is how dumps store it; what is real is returned."""
    return np.stack([tensor.real, tensor.imag], -1) if np.iscomplexobj(tensor) else tensor
