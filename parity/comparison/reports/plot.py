"""Draw the error, so that a shift, an edge or a bad layer can be seen at once.

Time runs across. The top panel is the error of every value of the first wrong stage, with the
lowest bin or channel at the bottom; the panel to its right enlarges the frames around the worst
one. Below is the error of each frame and, if several stages were given, one row for each stage. All
errors are in units of noise: black is at most the noise of a right port, cyan is NaN or infinity.
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from melfront.command import replacing
from melfront.conventions import HOP_LENGTH, N_FFT, SAMPLE_RATE

from ...noise import BAD_STEP, PASS_LIMIT, Array
from .report import Report, StageResult

COLUMNS = 400  # of a picture, 2 dots each; more are merged, keeping the worst of each group
ROWS = 400
AROUND = 16  # frames on each side of the worst one
FRAME = HOP_LENGTH / SAMPLE_RATE  # seconds
LEAST = 1e-2  # units of noise: the lower end of the curve
BRIGHTEST = 1e3  # at least, so that a PASS looks black and two pictures can be compared
NOT_FINITE = "cyan"
COLOURMAP = matplotlib.colormaps["inferno"].with_extremes(bad=NOT_FINITE)
COLOURS = {"PASS": "tab:green", "NOISY": "tab:orange", "UNJUDGED": "tab:gray"}
COLOURS |= dict.fromkeys(("WRONG", "SHAPE"), "tab:red")


def plot(report: Report, path: str | os.PathLike[str]) -> None:
    """Draw a report of `parity.compare` to a PNG file. Raises ParityError, OSError."""
    stage = pictured(report)
    lines = [s for s in report.stages if s.steps is not None]
    layers = len(lines) if len(lines) > 1 else 0
    heights = [4.0, 1.6] + ([min(12.0, max(1.2, 0.22 * layers))] if layers else [])
    figure = Figure(figsize=(13, 2.0 + sum(heights)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title(report, stage), x=0.01, ha="left", fontsize=11, family="monospace")
    if stage is None:
        figure.text(0.5, 0.4, "no stage has an error to draw", ha="center")
    else:
        top = max([BRIGHTEST, *(brightest(s) for s in (stage, *lines))])
        norm = LogNorm(1.0, top)
        grid = figure.add_gridspec(len(heights), 2, height_ratios=heights, width_ratios=[4, 1])
        values, near = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
        draw_values(values, near, stage, norm)
        if stage.steps is not None:
            draw_steps(figure.add_subplot(grid[1, 0], sharex=values), stage, top)
        if layers:
            draw_layers(figure.add_subplot(grid[2, 0], sharex=values), lines, norm)
        colours = ScalarMappable(norm, COLOURMAP)
        figure.colorbar(colours, ax=near, label="error in units of noise", aspect=40)
    with replacing(Path(path)) as temporary:
        canvas.print_png(os.fspath(temporary))


def pictured(report: Report) -> StageResult | None:
    """The stage to draw: the first wrong one, or the last of those that pass."""
    drawable = [s for s in report.stages if s.distance is not None and s.distance.size]
    wrong = report.first_wrong
    if wrong in drawable:
        return wrong
    return drawable[-1] if drawable else None


def title(report: Report, stage: StageResult | None) -> str:
    lines = [*report.about, report.headline()]
    if stage is not None and stage is not report.first_wrong:
        lines.append(f"shown: {stage.name}  {stage.verdict}")
    return "\n".join(part for line in lines for part in textwrap.wrap(line, 120))


def brightest(stage: StageResult) -> float:
    if stage.distance is None:
        return 0.0
    finite = stage.distance[np.isfinite(stage.distance)]
    return float(finite.max()) / stage.floor if finite.size else 0.0


def image(stage: StageResult) -> tuple[Array, str, float, float]:
    """Error in units of noise as (rows, steps), the name of the rows, seconds a step, the start."""
    assert stage.distance is not None
    error = stage.distance / stage.floor
    axes = stage.name.axes
    if error.ndim > len(axes):  # of a batch, the worst clip
        error = error[int(np.argmax([badness(clip) for clip in error]))]
    if axes == ("L + N",):  # one hop a column
        error = np.append(error, np.zeros(-len(error) % HOP_LENGTH)).reshape(-1, HOP_LENGTH).T
        return error, "sample of 160", FRAME, -N_FFT / 2 / SAMPLE_RATE
    seconds = FRAME if "F" in axes else 2 * FRAME
    names = {"M": "mel bin", "K": "frequency bin", "N": "sample", "S": "channel", "A": "channel"}
    if axes[0] == "H":  # (H, T, T): the worst head of each pair
        return error.max(axis=0).T, "key", seconds, 0.0
    time = stage.name.time_axis
    return (error if time else error.T), names[axes[0 if time else 1]], seconds, 0.0


def badness(x: Array) -> float:
    """The largest value of x; infinity if one is not finite."""
    return float(x.max()) if np.isfinite(x).all() else float("inf")


def gathered(x: Array, rows: int, columns: int) -> Array:
    """Reduce x (rows, steps) to this size, keeping the worst of neighbours; NaN is worst."""
    for axis, most in ((0, rows), (1, columns)):
        size = x.shape[axis]
        if size > most:
            starts = np.arange(most) * size // most
            x = np.maximum.reduceat(x, starts, axis=axis)  # NaN wins in maximum
    return x


def show(axes: Any, error: Array, extent: tuple[float, ...], norm: LogNorm) -> None:
    """A heat map of (rows, steps) over its extent: left, right, bottom, top."""
    axes.imshow(
        np.ma.masked_invalid(np.maximum(gathered(error, ROWS, COLUMNS), 1.0)),
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap=COLOURMAP,
        norm=norm,
        extent=extent,
    )


def draw_values(axes: Any, near: Any, stage: StageResult, norm: LogNorm) -> None:
    error, rows, seconds, start = image(stage)
    n_rows, steps = error.shape
    end = start + steps * seconds
    show(axes, error, (start, end, -0.5, n_rows - 0.5), norm)
    axes.set_xlim(start - 0.005 * end, 1.005 * end)  # else the axis hides the first frame
    axes.set_ylabel(rows)
    axes.set_title(f"{stage.name}: |error| of every value, over seconds", fontsize=10, loc="left")

    # One frame among thousands is thinner than a dot: enlarge the worst ones.
    each = error.max(axis=0)
    worst = int(np.argmin(np.isfinite(each)) if not np.isfinite(each).all() else np.argmax(each))
    first = max(0, min(worst - AROUND, steps - 2 * AROUND - 1))
    last = min(steps, first + 2 * AROUND + 1)
    show(near, error[:, first:last], (first - 0.5, last - 0.5, -0.5, n_rows - 0.5), norm)
    what = "frame" if seconds == FRAME else "position"
    near.set_title(f"around {what} {worst}", fontsize=10, loc="left")
    near.set_xlabel(what)
    near.tick_params(labelleft=False)


def draw_steps(axes: Any, stage: StageResult, top: float) -> None:
    """The error of each frame or position over time."""
    assert stage.steps is not None
    error = gathered((stage.steps / stage.floor)[None], 1, COLUMNS)[0]
    edges = np.linspace(0, span(stage), len(error) + 1)
    finite = np.isfinite(error)
    axes.stairs(np.where(finite, error, LEAST), edges, baseline=LEAST, fill=True, color="0.4")
    broken = np.where(finite, LEAST, 4 * top)
    axes.stairs(broken, edges, baseline=LEAST, fill=True, color=NOT_FINITE)
    axes.set_yscale("log")
    limit = PASS_LIMIT[stage.dtype]
    axes.axhline(limit, color="tab:green", lw=1, label=f"{limit:g}: PASS of the whole")
    axes.axhline(BAD_STEP, color="tab:orange", lw=1, label=f"{BAD_STEP:g}: a bad step")
    axes.set_ylim(LEAST, 2 * top)
    axes.set_title(f"{stage.name}: rms of each step, {stage.bad}", fontsize=10, loc="left")
    axes.set_ylabel("x noise")
    axes.legend(fontsize=7, loc="upper right")


def span(stage: StageResult) -> float:
    """How many seconds the stage covers."""
    assert stage.steps is not None
    return len(stage.steps) * (FRAME if "F" in stage.name.axes else 2 * FRAME)


def draw_layers(axes: Any, lines: list[StageResult], norm: LogNorm) -> None:
    """One row for each stage, the first at the top: the error of its frames or positions."""
    rows = len(lines)
    for row, stage in enumerate(lines):
        assert stage.steps is not None
        error = (stage.steps / stage.floor)[None]
        show(axes, error, (0.0, span(stage), rows - row - 1.5, rows - row - 0.5), norm)
    axes.set_ylim(-0.5, rows - 0.5)
    every = -(-rows // 60)  # more names than this cannot be read
    named = range(0, rows, every)
    axes.set_yticks([rows - 1 - row for row in named], [lines[row].name for row in named])
    axes.tick_params(axis="y", labelsize=7)
    for label, row in zip(axes.get_yticklabels(), named, strict=True):
        label.set_color(COLOURS[lines[row].verdict])
    axes.set_title("all stages given: rms of each step", fontsize=10, loc="left")
    axes.set_xlabel("seconds")
