"""The times of one work as a table: to be read and to be written.

A second copy of a contestant has `AGAIN` after its name: a smaller difference does not count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melfront.parity import noise

from ..race import TOO_BUSY, ratio_interval, spread

AGAIN = ", again"
BAND = 0.03  # ratios this close to 1 are no difference, even if two copies are closer


@dataclass
class Row:
    """A contestant of a table."""

    name: str
    seconds: list[float]
    error_rms: float | None = None  # against float64
    error_max: float | None = None

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


@dataclass
class Table:
    """The contestants at one work, ours among them."""

    title: str
    rows: list[Row]
    ours: list[str]  # the names that the others are compared with
    lines: list[str] = field(default_factory=list)  # to print below

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def band(self) -> float:
        """How far from 1 a ratio may be without meaning anything."""
        pairs = [(r, self.row(r.name.removesuffix(AGAIN))) for r in self.rows if AGAIN in r.name]
        ratios = [ratio_interval(a.seconds, b.seconds, 0.95)[1] for a, b in pairs]
        return float(max([BAND, *(abs(ratio - 1) for ratio in ratios)]))

    def unclear(self) -> bool:
        """Whether the machine was too busy to compare anything."""
        return not self.band() <= TOO_BUSY - 1

    def ratio(self, ours: str, other: str) -> str:
        """Our time over theirs, marked "=" if the difference does not count."""
        if self.unclear():
            return "?"
        a, b = self.row(ours), self.row(other)
        low, ratio, high = ratio_interval(a.seconds, b.seconds, 0.95)
        band = self.band()
        mark = " =" if low < 1 + band and high > 1 - band else ""
        return f"{ratio:.2f}{mark}"


def errors(result: NDArray[Any], truth: NDArray[np.float64]) -> tuple[float, float]:
    """Root mean square and largest difference. Raises ValueError for another shape."""
    found = noise.error(result, truth, floor=1.0)
    return found.noise, found.max_abs


def from_json(tables: list[dict[str, Any]]) -> list[Table]:
    """What `dataclasses.asdict` made of the tables, undone."""
    return [Table(**{**t, "rows": [Row(**row) for row in t["rows"]]}) for t in tables]


def cores(threads: int) -> str:
    return f"{threads} core{'s' * (threads > 1)}"


def show(table: Table) -> list[str]:
    """The table as lines of Markdown that are also easy to read as text."""
    heading = [f"**{table.title}**", ""]
    below = [f"- {line}" for line in table.lines]
    if table.unclear():
        below.append(
            f"- too busy to compare: two copies of one contestant differ by {table.band():.0%}. "
            "Run it again when the machine is quiet"
        )
    if not table.rows:
        return [*heading, *below]
    unit, factor = ("s", 1.0) if max(r.median for r in table.rows) > 2 else ("ms", 1e3)
    columns = [f"{name} / it" for name in table.ours]
    head = ["", unit, "20 .. 80 %", *columns, "error rms", "max"]
    body = []
    for row in table.rows:
        median, low, high = (f"{factor * x:.3g}" for x in (row.median, *spread(row.seconds)))
        ratios = ["" if row.name in table.ours else table.ratio(o, row.name) for o in table.ours]
        error = [f"{x:.1e}" if x is not None else "" for x in (row.error_rms, row.error_max)]
        body.append([row.name, median, f"{low} .. {high}", *ratios, *error])
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in (head, rule, *body)
    ]
    return [*heading, *lines, *([""] if below else []), *below]
