"""The roofline: speed over operations per byte, under the roof of the machine that was measured."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .record import RecordError


class Point(NamedTuple):
    """A timed case: of which kernel, how much work for each byte, and how fast (GFLOP/s)."""

    kernel: str
    intensity: float
    speed: float
    reference: float  # the speed of the reference
    bandwidth: float  # GB/s
    rate: float  # GFLOP/s


def points_of(records: list[dict[str, Any]]) -> list[Point]:
    """Every case that has a time and a roof."""
    points = []
    for r in records:
        for c in r["cases"]:
            if "times" in c and c["flops"] and c["bandwidth"]:
                mine, theirs = (
                    c["flops"] / max(float(np.median(c["times"][who])), 1e-9) / 1e9
                    for who in ("candidate", "reference")
                )
                name, intensity = f"{r['slot']}: {r['file']}", c["flops"] / c["bytes"]
                roof = c["bandwidth"] / 1e9, c["rate"] / 1e9
                points.append(Point(name, intensity, mine, theirs, *roof))
    return points


def plot(records: list[dict[str, Any]], path: str) -> None:
    """Draw the roofline of these records. Raises RecordError if none has a time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = points_of(records)
    if not points:
        raise RecordError("no record has a time to plot: a kernel that is wrong has none")
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw_roof(axes, points)
    names = list(dict.fromkeys(p.kernel for p in points))
    for i, name in enumerate(names):
        mine, colour = [p for p in points if p.kernel == name], f"C{i % 10}"
        x = [p.intensity for p in mine]
        axes.scatter(x, [p.speed for p in mine], 36, c=colour, zorder=3, label=name)
        theirs = [p.reference for p in mine]
        axes.scatter(x, theirs, 36, facecolors="none", edgecolors=colour, zorder=3)
    axes.scatter([], [], facecolors="none", edgecolors="0.25", label="hollow: the reference")
    axes.set_ylim(min(p.speed for p in points) / 3, max(p.rate for p in points) * 3)
    axes.set_xlabel("operations per byte that must be moved")
    axes.set_ylabel("GFLOP/s")
    axes.set_title("Kernels under the roof of this machine: higher is faster", loc="left")
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    axes.grid(True, which="major", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{path} cannot be written: {error}; give a name that ends in .png"
        ) from None


def draw_roof(axes: Any, points: list[Point]) -> None:
    """The line that no kernel is above, with its two limits named."""
    x = [p.intensity for p in points]
    grid = np.geomspace(min(x) / 4, max(x) * 4, 200)
    # The lowest roof of all cases: caches lift that of the small ones.
    bandwidth, rate = min(p.bandwidth for p in points), max(p.rate for p in points)
    roof = np.minimum(bandwidth * grid, rate)
    axes.loglog(grid, roof, color="0.25", linewidth=1.5)
    axes.fill_between(grid, roof, roof.min() * 1e-4, color="0.95", zorder=0)
    axes.set_xlim(grid[0], grid[-1])
    style = {"textcoords": "offset points", "color": "0.25"}
    copying, multiplying = f"copying {bandwidth:.3g} GB/s", f"multiplying {rate:.3g} GFLOP/s"
    axes.annotate(copying, (grid[8], bandwidth * grid[8]), xytext=(6, -16), **style)
    axes.annotate(multiplying, (grid[-1], rate), ha="right", xytext=(0, 6), **style)
