"""Recognise the layout of a tensor: batch axis, transposed, heads apart, complex as pairs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..noise import Array
from ..stages import Stage


class Fitted(NamedTuple):
    """A tensor in the expected layout, or as near to it as possible, and what was changed."""

    values: Array
    notes: tuple[str, ...]
    fits: bool


def fit(values: Array, stage: Stage, shape: tuple[int, ...], complex_: bool = False) -> Fitted:
    """Bring `values` to the shape of the stage, and say what had to be changed."""
    notes: list[str] = []
    pairs = complex_ and not np.iscomplexobj(values) and values.ndim > len(shape)
    if pairs and values.shape[-1] == 2:
        values = values[..., 0] + 1j * values[..., 1]
        notes.append("real and imaginary parts in the last axis")
    before = values.ndim
    while values.ndim > len(shape) and values.shape[0] == 1:
        values = values[0]
    if n := before - values.ndim:
        notes.append("a batch axis of 1" if n == 1 else f"{n} batch axes of 1")
    if values.ndim > len(shape) and values.shape != shape and 1 not in shape:
        thin = np.squeeze(values)  # (S, 1, T) as Core ML has it, (T, 1, S) as PyTorch's attention
        if thin.ndim == len(shape) or (thin.ndim < values.ndim and ".attn." in stage):
            values = thin
            notes.append("an axis of 1 between")
    if values.shape == shape:
        return Fitted(values, tuple(notes), True)
    values, changed = rearrange(values, stage, shape)
    return Fitted(values, (*notes, *changed), values.shape == shape)


def rearrange(values: Array, stage: Stage, shape: tuple[int, ...]) -> tuple[Array, tuple[str, ...]]:
    """Undo a transposition or a split into heads, if that gives the shape."""
    if values.ndim == len(shape) >= 2:
        swapped = values.swapaxes(-1, -2)
        if swapped.shape == shape:
            return swapped, ("transposed",)
        # Transposed, with one frame too many: the transposition at least can be told.
        near = abs(swapped.shape[-1] - shape[-1]) + abs(swapped.shape[-2] - shape[-2])
        if near < abs(values.shape[-1] - shape[-1]) + abs(values.shape[-2] - shape[-2]):
            return swapped, ("transposed",)
    if values.ndim == len(shape) + 1 > 2 and ".attn." in stage:
        for heads, order in ((values, "(H, T, D)"), (values.swapaxes(-2, -3), "(T, H, D)")):
            merged = heads.swapaxes(-2, -3).reshape(*values.shape[:-3], heads.shape[-2], -1)
            if merged.shape == shape:
                return merged, (f"heads apart, {order}",)
    return values, ()
