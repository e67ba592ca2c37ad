"""The roofline: speed over operations per byte, under the roof of the machine that was measured."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from melfront.command import UsageError, replacing

Case = dict[str, Any]  # as `record.py` writes it


def intensity(case: Case) -> float:
    """Operations for each byte that must be moved."""
    return float(case["flops"] / case["bytes"])


def speed(case: Case, who: str) -> float:
    """GFLOP/s of a contestant."""
    return float(case["flops"] / max(np.median(case["times"][who]), 1e-9) / 1e9)


def plot(records: list[dict[str, Any]], path: str) -> None:
    """Draw the roofline of these records. Raises UsageError if none has a time."""
    from matplotlib.figure import Figure

    kernels: dict[str, list[Case]] = {}  # the cases that have a time and a roof
    for r in records:
        timed = [c for c in r["cases"] if "times" in c and c["flops"] and c["bandwidth"]]
        if timed:
            kernels.setdefault(f"{r['slot']}: {r['file']}", []).extend(timed)
    if not kernels:
        raise UsageError("no record has a time to plot: a kernel that is wrong has none")
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    draw_roof(axes, [case for cases in kernels.values() for case in cases])
    for i, (name, cases) in enumerate(kernels.items()):
        x, colour = [intensity(c) for c in cases], f"C{i % 10}"
        mine, theirs = ([speed(c, who) for c in cases] for who in ("candidate", "reference"))
        axes.scatter(x, mine, 36, c=colour, zorder=3, label=name)
        axes.scatter(x, theirs, 36, facecolors="none", edgecolors=colour, zorder=3)
    axes.scatter([], [], facecolors="none", edgecolors="0.25", label="hollow: the reference")
    axes.set_xlabel("operations per byte that must be moved")
    axes.set_ylabel("GFLOP/s")
    axes.set_title("Kernels under the roof of this machine: higher is faster", loc="left")
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    axes.grid(True, which="major", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    try:
        figure.savefig(picture, format=Path(path).suffix[1:] or None, dpi=120)
    except ValueError as error:
        text = f"{path} cannot be written: {error}; give a name that ends in .png"
        raise UsageError(text) from None
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(picture.getbuffer())


def draw_roof(axes: Any, cases: list[Case]) -> None:
    """The line that no kernel is above, with its two limits named."""
    x = [intensity(case) for case in cases]
    grid = np.geomspace(min(x) / 4, max(x) * 4, 200)
    # The lowest roof of all cases: caches lift that of the small ones.
    bandwidth = min(case["bandwidth"] for case in cases) / 1e9
    rate = max(case["rate"] for case in cases) / 1e9
    roof = np.minimum(bandwidth * grid, rate)
    axes.loglog(grid, roof, color="0.25", linewidth=1.5)
    axes.fill_between(grid, roof, roof.min() * 1e-4, color="0.95", zorder=0)
    axes.set_xlim(grid[0], grid[-1])
    axes.set_ylim(min(speed(case, "candidate") for case in cases) / 3, rate * 3)
    style = {"textcoords": "offset points", "color": "0.25"}
    copying, multiplying = f"copying {bandwidth:.3g} GB/s", f"multiplying {rate:.3g} GFLOP/s"
    axes.annotate(copying, (grid[8], bandwidth * grid[8]), xytext=(6, -16), **style)
    axes.annotate(multiplying, (grid[-1], rate), ha="right", xytext=(0, 6), **style)
