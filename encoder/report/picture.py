"""Arrays as pictures, one pixel a number, in a palette that can be converted back into numbers.

For the number under the pointer, the page looks up the pixel's colour in the palette. So all
colours of a palette differ, and the page needs no other copy of the data.

    # R rows  C columns, time along the columns
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
LEVELS = 128  # steps of a range: of 256, neighbours would round to the same 8-bit colour


class Picture(NamedTuple):
    """A picture and what the page needs to draw its axes."""

    name: str
    source: str  # data: URI of the PNG
    columns: int
    rows: int
    step: int  # milliseconds from one column to the next; column 0 is centred on 0 s
    low: float  # the value of the first colour of the palette
    high: float  # and of the last
    palette: str
    unit: str
    labels: Sequence[str]  # of each row, from the bottom
    ticks: Sequence[tuple[float, str]]  # share of the height from the bottom, and its label


def rgb(name: str, levels: int) -> Array:
    """A colormap of matplotlib, sampled in `levels` steps: (levels, 3) uint8."""
    colours = colormaps[name](np.linspace(0, 1, levels))[:, :3]
    return np.round(255 * colours).astype(np.uint8)


def two_ramps(share: float) -> Array:
    """A cold palette below `share` of the range and a warm one above: (LEVELS, 3) uint8."""
    n_cold = round(share * LEVELS)
    cold = np.linspace((16, 42, 54), (112, 200, 205), n_cold)
    warm = colormaps["magma"](np.linspace(0.12, 1, LEVELS - n_cold))[:, :3] * 255
    return np.round(np.concatenate([cold, warm])).astype(np.uint8)


def png(values: Array, low: float, high: float, palette: Array) -> str:
    """Values (R, C) from low to high in the colours of a palette, row 0 at the bottom: a data: URI.

    Values outside the range get the colour of its nearer end.
    """
    last = len(palette) - 1
    share = (np.asarray(values, dtype=np.float64) - low) / max(high - low, 1e-12)
    levels = np.round(np.clip(share, 0, 1) * last).astype(np.uint8)
    image = Image.fromarray(levels[::-1])
    image.putpalette(palette.tobytes())
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def spread(x: Array, share: float) -> float:
    """The quantile `share` of the absolute values; more than 0."""
    return max(float(np.quantile(np.abs(x), share)), 1e-6)
