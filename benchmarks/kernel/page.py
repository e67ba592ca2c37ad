"""A page of kernels, written from records: a line for each of them."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import asdict
from typing import Any

import numpy as np

from melfront.command import one_line

from .outcome import Options
from .record import located, options
from .report import kind
from .roofline_plot import points
from .timing.roof import Roof
from .timing.times import REFERENCE

HEAD = """# Kernels

`melfront benchmarks kernel` has tried each of them, timed those that it proved right, and written
a record. This page is written from the records:

    {command}

- *x noise*: the largest error of all cases, in units of the error that our own op makes
- *vs reference*: the time of our own op over the kernel's, for each shape that is timed; above 1
  the kernel is faster, and "=" is no difference
- *of the roof*: the share of what the machine can do, for the same shapes

Ratios of different machines say nothing about each other. To add a kernel, run it with
`--json RUNS.jsonl` on a quiet machine, and send the kernel and the record as a pull request. To run
a record again, on any machine: `melfront benchmarks kernel --verify RUNS.jsonl`.

"""
WIDEST = 500  # characters of a cell
COLUMNS = ["slot", "kernel", "verdict", "x noise", "vs reference", "of the roof", "on", "command"]
VALUES = ("size", "model", "dtype", "device", "seconds", "limit", "depth")  # options that have one


def text(records: list[dict[str, Any]], paths: list[str], page: str) -> str:
    """The page, in Markdown; paths: the files of the records, page: where it is written to."""
    machines: dict[str, int] = {}  # in words -> its number
    rows = []
    for record in sorted(records, key=lambda r: (str(r["slot"]), str(r["file"]))):
        number = machines.setdefault(machine(record), len(machines) + 1)
        rows.append([*row(record), str(number), command(record)])
    words = ["melfront", "benchmarks", "kernel", "--show", *paths, "--table", page]
    lines = [HEAD.format(command=shlex.join(words)) + line(COLUMNS), line(["---"] * len(COLUMNS))]
    lines += [*map(line, rows), "", "Machines and versions:", ""]
    lines += [f"{number}. {words}" for words, number in machines.items()]
    return "\n".join(lines) + "\n"


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def row(record: dict[str, Any]) -> list[str]:
    """What a line says of the kernel itself."""
    kernel = code(record["file"])
    if about := record.get("about"):
        kernel += f": {plain(about)}"
    said = kind(record["verdict"], record["code"])
    if mistake := record.get("mistake"):
        said += f", {mistake}"
    if record.get("interpreted"):
        said += ", by Triton's interpreter"
    noises = [case["noise"] for case in record["cases"] if case["noise"] is not None]
    noise = f"{max(noises):.2g}" if noises and not record["code"] else "-"
    timed = [case["ratios"][REFERENCE] for case in record["cases"] if "ratios" in case]
    ratios = [f"{r['ratio']:.2f}" + ("x" if r["counts"] else "x =") for r in timed]
    return [
        code(record["slot"]),
        kernel,
        plain(said),
        noise,
        ", ".join(ratios) or "-",
        ", ".join(f"{share(case):.0%}" for case in points(record)) or "-",
    ]


def share(case: dict[str, Any]) -> float:
    """Of the roof: 1 is as fast as the machine can be."""
    least = Roof(case["bandwidth"], case["rate"]).seconds(case["flops"], case["bytes"])
    return float(least / max(np.median(case["times"]["candidate"]), 1e-9))


def machine(record: dict[str, Any]) -> str:
    """The machine and the software of a record."""
    on = record["machine"]
    words = [on.get("cpu"), f"{on.get('cores')} cores", on.get("gpu") or "no GPU", on.get("system")]
    software = [f"{name} {version}" for name, version in record["versions"].items()]
    return plain(", ".join(map(str, [*words, *software])))


def command(record: dict[str, Any]) -> str:
    """What runs a record again, from the folder in which the page is written."""
    if record["version"] == 1:
        return "-"
    given, usual = options(record), asdict(Options())
    words = [record["slot"], os.path.relpath(located(record))]
    always = {"threads": given.threads, "seed": given.seed}
    changed = {n: v for n in VALUES if (v := getattr(given, n)) != usual[n]}
    for name, value in (changed | always).items():
        words += [f"--{name}", str(value)]
    words += ["--no-whole"] * (not given.whole)
    return code(shlex.join(["melfront", "benchmarks", "kernel", *words]))


def plain(words: str) -> str:
    """Words of anybody's, as text of a cell: one line, and no Markdown."""
    return re.sub(r"([\\|*_`<>\[\]&#~])", r"\\\1", one_line(words, WIDEST))


def code(words: str) -> str:
    """The same as code, in which only a backtick and a bar would do harm."""
    return f"`{one_line(words, WIDEST).replace('`', '?').replace('|', '?')}`"
