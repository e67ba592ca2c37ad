"""The command line of `melfront benchmarks frontend | encoder | load`."""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from melfront.command import Parser, UsageError, check_output, replacing

from ..machine import installed, machine, processors, versions_of
from ..race import spread
from .own_process import in_process
from .results import Table, from_json, show

WORKS = {
    "frontend": (
        *("30 s", "8.1 s padded to 30 s", "32 clips of 30 s"),
        *("one hour", "growth", "process"),
    ),
    "encoder": ("tiny", "base", "small", "large-v3", "batch", "memory"),
    "load": ("tiny", "large-v3"),
}
OUTPUTS = {"json": ".json", "plot": ".png", "markdown": ".md"}
WHAT = {"frontend": "log-mel features", "encoder": "hidden states", "load": "loading a checkpoint"}
PACKAGES = (
    *("transformers", "openai-whisper", "faster-whisper", "ctranslate2", "librosa"),
    *("asrfront", "hf-processors-rs", "onnxruntime", "numpy", "torch"),
)
# Those that each command's contestants need.
PEERS = {
    "frontend": (*PACKAGES[:3], *PACKAGES[4:7]),
    "encoder": (*PACKAGES[:2], "ctranslate2", "onnx", "onnxruntime"),
    "load": PACKAGES[:1],
}
EXTRA = "pip install 'melfront[bench]'"
NOTES = """\
Every contestant is called in turn, so that all meet the same machine. Times are
medians, with the 20th and 80th percentile. `ours / it` is the mean of the rounds'
own ratios, without the lowest fifth and the highest; below 1, ours takes less
time. `=` marks no difference: no more than two copies of the same contestant
differ by. Errors are against float64."""


def parse(command: str, arguments: list[str]) -> Any:
    """The arguments of a command. Exits with status 2, or raises UsageError, for wrong ones."""
    works = WORKS[command]
    parser = Parser(
        prog=f"melfront benchmarks {command}",
        description=f"Ours and every peer that is installed, in turn: {WHAT[command]}.\n\n{NOTES}",
        epilog=f"Peers: {', '.join(PEERS[command])}.\n{EXTRA} brings what is missing.\n\n"
        f"example:\n  melfront benchmarks {command} --work {shlex.quote(works[0])}",
    )
    add = parser.add_argument
    add("--work", action="append", choices=works, help="may be given again; default: all")
    cores = "1,2" if processors() > 1 else "1"
    add("--threads", default=cores, metavar="LIST", help="cores of each run; default: %(default)s")
    add(
        "--seconds",
        type=float,
        default=10.0,
        help="for each table, at least; below 0.2 only to see that it runs; default: 10",
    )
    add("--json", type=Path, metavar="OUT.json", help="every time of every round")
    add("--plot", type=Path, metavar="OUT.png", help="the tables as a picture")
    add("--markdown", type=Path, metavar="RESULTS.md", help="put the tables into this file")
    args = parser.parse_args(arguments)
    try:
        args.threads = [int(n) for n in args.threads.split(",")]
    except ValueError:
        parser.error(f"--threads {args.threads}: expected numbers such as 1,2")
    if not all(1 <= n <= processors() for n in args.threads):
        parser.error(f"--threads: expected 1 to {processors()}, as many as there are cores")
    if not 0 < args.seconds < float("inf"):
        parser.error(f"--seconds {args.seconds}: expected a positive number")
    for option, ending in OUTPUTS.items():
        if file := vars(args)[option]:
            given = f"--{option} {file}"
            if file.suffix != ending or (file.exists() and not file.is_file()):
                parser.error(f"{given}: expected the name of a file that ends in {ending}")
            check_output(file, given)  # now, not after half an hour
    return args


def run(command: str, arguments: list[str]) -> int:
    """Run and print the works asked for, and write the files asked for. Raises UsageError."""
    args = parse(command, arguments)
    if missing := [package for package in PEERS[command] if not installed(package)]:
        if command == "load":  # theirs also writes what is loaded
            raise UsageError(f"load needs transformers: {EXTRA}")
        said = f"not installed, and so not timed: {', '.join(missing)}; {EXTRA} brings them"
        print(f"melfront benchmarks {command}: {said}", file=sys.stderr)
    about = header(command, arguments)
    print(*about, sep="\n")
    tables: list[Table] = []
    for work in args.work or WORKS[command]:
        for threads in args.threads:
            options = {"work": work, "seconds": args.seconds, "threads": threads}
            where = f"melfront.benchmarks.speed.{command}:measure"
            try:
                got = in_process(where, options, threads)
            except RuntimeError as error:
                raise UsageError(f"{command}, {work}: {error}") from error
            for table in from_json(got):
                print("", *show(table), sep="\n", flush=True)
                tables.append(table)
    if args.json:
        content = json.dumps({"about": about, "tables": tables}, indent=1, default=asdict)
        with replacing(args.json) as temporary:
            temporary.write_text(f"{content}\n", encoding="utf-8")
    if args.plot:
        plot(tables, args.plot)
    if args.markdown:
        put(args.markdown, command, about, tables)
    return 0


frontend, encoder, load = (partial(run, command) for command in WORKS)


def header(command: str, arguments: list[str]) -> list[str]:
    """Command line, machine and versions."""
    here = machine()
    where = here["gpu"] or f"{here['cpu']}, {here['cores']} cores, no GPU"
    return [
        f"$ melfront benchmarks {shlex.join([command, *arguments])}",
        f"{date.today()}, {where}",
        ", ".join(f"{package} {version}" for package, version in versions_of(*PACKAGES).items()),
    ]


def put(file: Path, command: str, about: list[str], tables: list[Table]) -> None:
    """Write the tables as the file's section of this command, leaving the other sections alone."""
    try:
        old = file.read_text(encoding="utf-8") if file.exists() else f"# Results\n\n{NOTES}\n"
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: an old file that is not text: {error}") from error
    heading = f"## melfront benchmarks {command}\n"
    body = "\n".join(["```", *about, "```", ""] + [x for t in tables for x in (*show(t), "")])
    section = f"{heading}\n{body.rstrip()}\n"
    pattern = re.compile(rf"^{re.escape(heading)}.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    new, found = pattern.subn(lambda _: section + "\n", old)
    if not found:
        new = f"{old.rstrip()}\n\n{section}"
    with replacing(file) as temporary:
        temporary.write_text(f"{new.rstrip()}\n", encoding="utf-8")


def plot(tables: list[Table], file: Path) -> None:
    """A panel for each table: a bar for each contestant, with its spread."""
    from matplotlib.figure import Figure

    tables = [table for table in tables if table.rows]
    if not tables:
        print(f"{file} was not written: there is nothing timed to draw", file=sys.stderr)
        return
    heights = [len(table.rows) + 2 for table in tables]
    figure = Figure(figsize=(8, 0.28 * sum(heights) + 0.4), layout="constrained")
    panels = figure.subplots(len(tables), 1, squeeze=False, height_ratios=heights)[:, 0]
    for table, panel in zip(tables, panels, strict=True):
        rows = sorted(table.rows, key=lambda row: -row.median)
        medians = [1e3 * row.median for row in rows]
        error = [[1e3 * abs(row.median - spread(row.seconds)[i]) for row in rows] for i in (0, 1)]
        colours = ["#c44e52" if row.name in table.ours else "#8c8c8c" for row in rows]
        panel.barh([row.name for row in rows], medians, xerr=error, color=colours, height=0.7)
        panel.set_title(table.title, loc="left", fontsize=9)
        panel.set_xlabel("milliseconds", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    with replacing(file) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
