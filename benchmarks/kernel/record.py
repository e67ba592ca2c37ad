"""Records of runs: one line of JSON each, a table of them, and a roofline plot."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from .timing.roof import machine, pools, versions

VERSION = 1  # of the format


class RecordError(ValueError):
    """A file of records that cannot be read: one line that says what to do."""


def record(outcome: Any) -> dict[str, Any]:
    """Everything about a run, as JSON can hold it."""
    from dataclasses import asdict

    cases = []
    for i, f in enumerate(outcome.findings):
        entry: dict[str, Any] = {
            "label": f.case.label,
            "shape": list(f.case.args[0].shape),
            "verdict": f.verdict,
            "noise": number(f.noise),
            "max_abs": number(f.max_abs),
            "worst": list(f.worst),
            "code": f.code,
            "text": f.text,
            "same_bits": f.repeats,
        }
        race = outcome.races.get(i)
        if race:
            entry |= {
                "times": {who or "candidate": list(map(float, t)) for who, t in race.times.items()},
                "band": race.band(),
                "flops": race.flops,
                "bytes": race.n_bytes,
                "bandwidth": race.roof.bandwidth,
                "rate": race.roof.rate,
                "checked": race.checked,
                "timed_noise": race.noise,
                "overtime": race.overtime,
            }
            if outcome.verdict == "PASS":
                entry["ratios"] = {
                    who: {"ratio": race.ratio(who)[0], "counts": race.ratio(who)[1]}
                    for who in race.times
                    if who
                }
        cases.append(entry)
    whole = outcome.whole
    return {
        "version": VERSION,
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "slot": outcome.slot.name,
        "file": Path(outcome.path).name,
        "verdict": outcome.verdict,
        "code": outcome.code,
        "text": outcome.text,
        "mistake": outcome.mistake.name if outcome.mistake else None,
        "arrays": outcome.arrays,
        "interpreted": outcome.interpreted,
        "options": asdict(outcome.options),
        "machine": machine(),
        "versions": versions(),
        "pools": pools(outcome.options.threads),
        "cases": cases,
        "whole": None
        if whole is None
        else {
            "what": whole.what,
            "states": whole.names,
            "noise": list(map(number, whole.noise)),
            "times": [list(map(float, t)) for t in whole.times],
        },
    }


def number(x: float) -> float | None:
    """JSON has neither NaN nor infinity."""
    return float(x) if np.isfinite(x) else None


def append(path: str, outcome: Any) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record(outcome)) + "\n")


def read(path: str) -> list[dict[str, Any]]:
    """The records of a file. Raises RecordError."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise RecordError(f"{path} cannot be read: {reason}; give what --json wrote") from None
    records = []
    for n, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            assert entry["version"] == VERSION
            entry["slot"], entry["file"], entry["cases"]
        except (ValueError, KeyError, TypeError, AssertionError):
            raise RecordError(
                f"{path}, line {n} is no record of this program; give what --json wrote"
            ) from None
        records.append(entry)
    if not records:
        raise RecordError(
            f"{path} is empty; a run on a quiet machine with --json {path} adds to it"
        )
    return records


def table(records: list[dict[str, Any]]) -> str:
    """One line for each timed case, or for each kernel that has no time."""
    from .report import duration
    from .report import table as aligned

    rows = [["slot", "file", "case", "shape", "type", "x noise", "verdict", "time", "vs reference"]]
    for r in records:
        head = [r["slot"], r["file"]]
        timed = [c for c in r["cases"] if "times" in c]
        for c in timed:
            shape = " x ".join(map(str, c["shape"]))
            ratio = c.get("ratios", {}).get("reference")
            said = (
                "-"
                if ratio is None
                else (f"{ratio['ratio']:.3g}x" if ratio["counts"] else "no difference")
            )
            rows.append(
                [
                    *head,
                    c["label"],
                    shape,
                    r["options"]["dtype"],
                    f"{c['noise']:.2g}",
                    c["verdict"],
                    duration(float(np.median(c["times"]["candidate"]))),
                    said,
                ]
            )
        if not timed:
            said = r["mistake"] or r["code"] or "-"
            rows.append([*head, said, "", r["options"]["dtype"], "", r["verdict"], "", ""])
    return "\n".join(aligned(rows))


def plot(records: list[dict[str, Any]], path: str) -> None:
    """The roofline: speed over operations per byte, on the roof of the machine that was measured.

    Raises RecordError if no record has a time.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    points = []
    for r in records:
        for c in r["cases"]:
            if "times" in c and c["flops"] and c["bandwidth"]:
                seconds = float(np.median(c["times"]["candidate"]))
                points.append(
                    (c["flops"] / c["bytes"], c["flops"] / max(seconds, 1e-9) / 1e9, r, c)
                )
    if not points:
        raise RecordError("no record has a time to plot: a kernel that is wrong has none")
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    x = np.geomspace(min(p[0] for p in points) / 4, max(p[0] for p in points) * 4, 200)
    # The lowest roof of all cases: caches lift that of the small ones.
    bandwidth = min(c["bandwidth"] for *_, c in points) / 1e9
    rate = max(c["rate"] for *_, c in points) / 1e9
    roof = np.minimum(bandwidth * x, rate)
    axes.loglog(x, roof, color="0.25", linewidth=1.5)
    axes.fill_between(x, roof, roof.min() * 1e-4, color="0.95", zorder=0)
    axes.annotate(
        f"copying {bandwidth:.3g} GB/s",
        (x[8], bandwidth * x[8]),
        rotation=0,
        xytext=(6, -16),
        textcoords="offset points",
        color="0.25",
    )
    axes.annotate(
        f"multiplying {rate:.3g} GFLOP/s",
        (x[-1], rate),
        ha="right",
        xytext=(0, 6),
        textcoords="offset points",
        color="0.25",
    )
    names = list(dict.fromkeys((p[2]["slot"], p[2]["file"]) for p in points))
    colours = plt.get_cmap("tab10")
    for i, (slot, file) in enumerate(names):
        mine = [p for p in points if (p[2]["slot"], p[2]["file"]) == (slot, file)]
        colour = [colours(i % 10)]
        x_of, y_of = [p[0] for p in mine], [p[1] for p in mine]
        axes.scatter(x_of, y_of, 36, c=colour * len(mine), zorder=3, label=f"{slot}: {file}")
        theirs = [p[3]["flops"] / np.median(p[3]["times"]["reference"]) / 1e9 for p in mine]
        axes.scatter(x_of, theirs, 36, facecolors="none", edgecolors=colour, zorder=3)
    axes.scatter([], [], facecolors="none", edgecolors="0.25", label="hollow: the reference")
    lowest = min(p[1] for p in points)
    axes.set_ylim(lowest / 3, rate * 3)
    axes.set_xlim(x[0], x[-1])
    axes.set_xlabel("operations per byte that must be moved")
    axes.set_ylabel("GFLOP/s")
    axes.set_title("Kernels under the roof of this machine: higher is faster", loc="left")
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    axes.grid(True, which="major", color="0.9")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{path} cannot be written: {error}; give a name that ends in .png"
        ) from None
    finally:
        plt.close(figure)
