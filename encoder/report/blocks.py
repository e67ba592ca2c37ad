"""What happens inside the blocks: how much attention and the MLP add, and what lies in between.

# L blocks  T positions  P of them in view  S state  A units of the MLP  R rows drawn
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
# The stages of a block that are drawn, by the names of their pictures.
DRAWN = {"attn_ln": "normed", "attn.context": "gathered", "mlp.gelu": "units"}
SIZES = {"attn.out": "attention", "attn_residual": "middle", "mlp.fc2": "mlp"}
ROWS = 64  # of a picture, at most
PIXELS = 1_000_000  # of all of them together: some 1 MB of the page


class Inside(NamedTuple):
    """What one clip is inside the blocks."""

    drawn: dict[str, Array]  # name of the picture -> (L, R, P) float32
    rows: dict[str, Array]  # name of the picture -> which channels those are, (R,)
    sizes: dict[str, Array]  # "attention", "middle", "mlp": size of what is added, (L, T)
    open: Array  # (L, T): share of the MLP's units whose input is above 0


class Blocks:
    """Sees the stages of a model and keeps what the page shows of its blocks."""

    def __init__(self, n_layer: int, in_view: int) -> None:
        self.in_view = in_view
        self.most = int(np.clip(PIXELS / (len(DRAWN) * n_layer * in_view), 8, ROWS))
        self.drawn: dict[str, list[Array]] = {name: [] for name in DRAWN.values()}
        self.sizes: dict[str, list[Array]] = {name: [] for name in SIZES.values()}
        self.rows: dict[str, Array] = {}
        self.open: list[Array] = []

    def see(self, stage: str, x: Tensor) -> None:
        """x: (1, T, channels)."""
        part = stage.split(".", 2)[-1]  # of "block.3.attn.out"
        if name := DRAWN.get(part):
            self.rows[name] = thinned(x.shape[-1], self.most)
            kept = x[0, : self.in_view, self.rows[name]]
            self.drawn[name].append(kept.float().cpu().numpy().T)
        if name := SIZES.get(part):
            self.sizes[name].append(x[0].float().norm(dim=-1).cpu().numpy())
        if part == "mlp.fc1":
            self.open.append((x[0] > 0).float().mean(dim=-1).cpu().numpy())

    def seen(self) -> Inside:
        drawn, sizes = (
            {name: np.stack(found) for name, found in of.items()} for of in (self.drawn, self.sizes)
        )
        return Inside(drawn, self.rows, sizes, np.stack(self.open))


def thinned(n: int, most: int) -> Array:
    """At most `most` of the indices 0 .. n - 1, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))
