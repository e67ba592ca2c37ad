"""Contestants called in turn, A B C A B C, and what their times say.

Each round calls every contestant once, in another order, after a pause and untimed calls. The pause
lasts until no thread of the one before is at work (OpenBLAS's spin for 0.1 s after their last
product, and would take a core from the next; told to sleep at once, as in the kernel harness, they
would wake too late for their own next step). The untimed calls wake its own threads and warm the
caches, for as long as a core takes to wake (one call of 1 ms does not: the next still takes a third
longer than the tenth). A contestant may come twice under two names; what those two differ by is no
difference for anybody.

    # R rounds
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAUSE = 0.02  # seconds between two looks at what still runs
WARM = 0.01  # seconds that untimed calls take, at least
LONG = 0.3  # who takes longer than this is warmed up once, not before each call
AGAIN = ", again"  # ends the name of a second copy
BAND = 0.03  # ratios this close to 1 are no difference even where two copies are closer
TOO_BUSY = 2.0  # a machine on which two copies differ by this factor compares nothing
THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "RAYON")


@dataclass
class Row:
    """A contestant of a table."""

    name: str
    seconds: list[float]
    error_rms: float | None = None  # against float64
    error_max: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def spread(self) -> tuple[float, float]:
        low, high = np.percentile(self.seconds, [20, 80])
        return float(low), float(high)


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
        """How far from 1 a ratio is without meaning anything."""
        pairs = [(r, self.row(r.name.removesuffix(AGAIN))) for r in self.rows if AGAIN in r.name]
        return float(max([BAND, *(abs(a.median / b.median - 1) for a, b in pairs)]))

    def unclear(self) -> bool:
        """Whether the machine was too busy to compare anything."""
        return not self.band() <= TOO_BUSY - 1

    def ratio(self, ours: str, other: str) -> str:
        """Our time over theirs, or that there is no difference."""
        if self.unclear():
            return "?"
        a, b = self.row(ours), self.row(other)
        low, high = interval(a, b)
        ratio, band = a.median / b.median, self.band()
        mark = " =" if low < 1 + band and high > 1 - band else ""
        return f"{ratio:.2f}{mark}"


def interval(a: Row, b: Row, draws: int = 500) -> tuple[float, float]:
    """95 % interval of median(a) / median(b), from rounds drawn again with replacement."""
    n = min(len(a.seconds), len(b.seconds))
    rounds = np.random.default_rng(0).integers(0, n, (draws, n))  # the same for both
    x, y = np.asarray(a.seconds)[rounds], np.asarray(b.seconds)[rounds]
    low, high = np.percentile(np.median(x, axis=1) / np.median(y, axis=1), [2.5, 97.5])
    return float(low), float(high)


def race(runs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Seconds of each call, R of each contestant: 5 rounds, and more until the time is used up."""
    order, chance = list(runs), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in runs}
    lengths = {name: timed(run) for name, run in runs.items()}
    end = time.perf_counter() + seconds
    gc.collect()
    gc.disable()
    try:
        while len(times[order[0]]) < least(5, seconds) or time.perf_counter() < end:
            chance.shuffle(order)
            for name in order:
                settle()
                if lengths[name] < LONG:
                    warm(runs[name])
                times[name].append(timed(runs[name]))
    finally:
        gc.enable()
    return times


def least(rounds: int, seconds: float) -> int:
    """So many rounds at least; one where there is no time for any, to see that all runs."""
    return rounds if seconds >= 0.2 else 1


def settle() -> None:
    """Wait until the threads of this process use next to no time, or for a second."""
    for _ in range(50):
        before = time.process_time()
        time.sleep(PAUSE)
        if time.process_time() - before < PAUSE / 10:
            return


def warm(run: Callable[[], object]) -> None:
    end = time.perf_counter() + WARM
    run()
    while time.perf_counter() < end:
        run()


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    result = run()
    stop = time.perf_counter()
    del result  # giving its memory back belongs to nobody's time
    return stop - start


def errors(result: NDArray[Any], truth: NDArray[np.float64]) -> tuple[float, float]:
    """Root mean square and largest difference. Raises ValueError for another shape."""
    if result.shape != truth.shape:
        raise ValueError(f"a result of shape {result.shape}, expected {truth.shape}")
    error = np.asarray(result, dtype=np.float64) - truth
    return float(np.sqrt(np.mean(np.square(error)))), float(np.abs(error).max())


# --- a process of its own -----------------------------------------------------------------------


def in_process(function: str, options: dict[str, Any], threads: int) -> Any:
    """`function(**options)` in a new process that has `threads` cores, and what it returns.

    function: "module:name". Pinned: the process may use no other core, and every library that
    starts threads is told how many before it is loaded. Raises RuntimeError with its last line of
    error. Ctrl-C is passed on to it, once, and it is waited for: it may have large files to delete.
    """
    environment = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in THREADS}
    command = [sys.executable, "-m", "benchmarks.speed.own_process", function, str(threads)]
    with subprocess.Popen(
        [*command, json.dumps(options)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            output, complaint = child.communicate()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            child.communicate()
            raise
    if child.returncode:
        last = (complaint.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{function} with {threads} threads: {last}")
    return json.loads(output.splitlines()[-1])


def from_json(tables: list[dict[str, Any]]) -> list[Table]:
    return [Table(**{**t, "rows": [Row(**row) for row in t["rows"]]}) for t in tables]


def to_json(tables: list[Table]) -> list[dict[str, Any]]:
    return [asdict(table) for table in tables]


# --- to be read ---------------------------------------------------------------------------------


def cores(threads: int) -> str:
    return f"{threads} core{'s' * (threads > 1)}"


def show(table: Table) -> list[str]:
    """The table as lines of Markdown that can be read as they stand."""
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
        low, high = (f"{factor * x:.3g}" for x in row.spread)
        ratios = ["" if row.name in table.ours else table.ratio(o, row.name) for o in table.ours]
        error = [f"{x:.1e}" if x is not None else "" for x in (row.error_rms, row.error_max)]
        name = row.name + (f" ({row.note})" if row.note else "")
        body.append([name, f"{factor * row.median:.3g}", f"{low} .. {high}", *ratios, *error])
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in (head, rule, *body)
    ]
    return [*heading, *lines, *([""] if below else []), *below]
