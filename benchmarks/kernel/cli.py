"""melfront benchmarks kernel: the command line."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melfront.command import Parser, UsageError, check_output, one_line, replacing
from melfront.encoder import SIZES

from ..machine import processors
from . import slots

if TYPE_CHECKING:
    from .outcome import Options

DTYPES = ("float32", "bfloat16", "float16")

EXAMPLES = """
examples:
  melfront benchmarks kernel --template layer_norm > my_layer_norm.py
  melfront benchmarks kernel layer_norm my_layer_norm.py
  melfront benchmarks kernel attention a.py b.py --size base --json runs.jsonl
  melfront benchmarks kernel --show runs.jsonl --plot roof.png --table kernels.md
  melfront benchmarks kernel --verify runs.jsonl

The file defines a function of the slot's name. It gets torch tensors, or NumPy
arrays if it says ARRAYS = "numpy", and returns new memory, or fills a parameter
named `out` if it has one.
Exit status: 0 proved, or all records hold; 1 not; 2 bad input.
"""


def parser() -> Parser:
    p = Parser(
        prog="melfront benchmarks kernel",
        description="Prove a kernel right on what Whisper feeds it, then time it.",
        epilog=EXAMPLES,
    )
    add = p.add_argument
    add("slot", nargs="?", help="the op: " + ", ".join(slots.files()))
    add("files", nargs="*", metavar="FILE.py", help="kernels for it")
    add("--list", action="store_true", help="the slots: signatures, shapes, rivals")
    add("--template", metavar="SLOT", help="print a working file to start from")
    add("--size", default="tiny", help="whose shapes: tiny, base, ... large-v3 (default tiny)")
    add("--model", metavar="NAME_OR_PATH", help="trained weights: a folder, a file or a Hub name")
    add("--dtype", default="float32", choices=DTYPES, help="default float32")
    add("--device", default="cpu", help="cpu or cuda; default cpu")
    add("--threads", type=positive, metavar="N", help="default: the cores of this machine")
    add("--seconds", type=float, default=3.0, help="of timing for each case (default 3)")
    add("--limit", type=float, default=20.0, help="seconds that a call may take (default 20)")
    add("--seed", type=int, help="repeat a run's random sizes and contents")
    add("--depth", type=positive, metavar="N", help="blocks of the encoder that is run as a whole")
    add("--no-whole", action="store_true", help="do not run the encoder with the kernel in it")
    add("--prints", action="store_true", help="show what the kernel prints")
    add("--json", metavar="RUNS.jsonl", help="append a record, unless the machine is busy")
    add("--show", metavar="RUNS.jsonl", nargs="+", help="a table of records")
    add("--plot", metavar="OUT.png", help="with --show: their roofline")
    add("--table", metavar="OUT.md", help="with --show: a page with a line for each kernel")
    add("--verify", metavar="RUNS.jsonl", nargs="+", help="run records again: do they hold?")
    return p


def positive(text: str) -> int:
    """An integer of at least 1. Raises ValueError, which argparse reports."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def main(arguments: list[str]) -> int:
    """The command; returns its exit status. Raises UsageError."""
    args = parser().parse_intermixed_args(arguments)
    if empty := [name for name, value in vars(args).items() if value == "" or value == [""]]:
        raise UsageError(f"the value of {empty[0]} is empty; give one, or leave it out")
    if args.show:
        show(args.show, args.plot, args.table)
        return 0
    if args.plot or args.table:
        option, does = ("--plot", "draws") if args.plot else ("--table", "has")
        raise UsageError(f"{option} {does} records: give them with --show RUNS.jsonl")
    if args.verify:
        return verify(args.verify, args.model)
    if args.template:
        check_slot(args.template)
        print(slots.template(args.template), end="")
        return 0
    if args.list:
        from .report import listing

        print(listing(), end="")
        return 0
    check(args)
    return judge_files(args)


def check(args: argparse.Namespace) -> None:
    """Raises UsageError for whatever can be wrong with the arguments of a proof."""
    if args.slot is None:
        known = ", ".join(slots.files())
        expected = f"SLOT FILE.py with SLOT one of {known}, or --list"
        raise UsageError(f"no slot given; expected {expected}")
    check_slot(args.slot)
    start = f"`--template {args.slot}` prints one to start from"
    if not args.files:
        raise UsageError(f"no file given for {args.slot}; {start}")
    for path in args.files:
        if not os.path.isfile(path):
            raise UsageError(f"{path} is not a file; {start}")
        if not path.endswith(".py"):
            raise UsageError(f"{path} is not a Python file: its name must end in .py")
    if slots.of_front_end(args.slot) and args.dtype != "float32":
        raise UsageError(
            f"--dtype {args.dtype}: {args.slot} belongs to the front end, which is "
            "float32 in every library; leave the option out"
        )
    if not (0 < args.seconds < float("inf") and 0 < args.limit < float("inf")):
        raise UsageError("--seconds and --limit must be positive numbers")
    if args.threads and args.threads > processors():
        raise UsageError(f"--threads {args.threads}: there are {processors()} cores; ask for fewer")
    if args.size not in SIZES:
        raise UsageError(f"unknown --size {args.size}; expected one of {', '.join(SIZES)}")
    if args.json:
        check_output(Path(args.json), f"--json {args.json}")  # now, not after minutes of work


def check_slot(name: str) -> None:
    """Raises UsageError for an unknown slot."""
    known = slots.files()
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? Expected" if near else "expected"
        raise UsageError(f"unknown slot {name}; {hint} one of {', '.join(known)}")


def ready(device: str) -> None:
    """Start what kernels are run by. Raises UsageError for a device that torch cannot use here."""
    from .sandbox.processes import SLEEP, fork_server

    os.environ.update(SLEEP)  # for this process too, whose libraries are not loaded yet
    if device != "cpu":
        usable(device)
    fork_server()  # it imports torch while we do


def options_of(args: argparse.Namespace) -> Options:
    """What a run gets of the command line; draws a seed where none is given."""
    import secrets

    from .outcome import Options

    args.whole = not args.no_whole
    args.threads = args.threads or processors()
    args.seed = secrets.randbits(31) if args.seed is None else args.seed
    return Options(**{f.name: getattr(args, f.name) for f in fields(Options)})


def judge_files(args: argparse.Namespace) -> int:
    """Prove and time each file, the next one even if this one fails; returns the worst status."""
    ready(args.device)
    from .reasons import Refused
    from .record import append
    from .report import text
    from .run import judge_file

    options, worst = options_of(args), 0
    for path in args.files:
        try:
            outcome = judge_file(path, args.slot, options, say)
        except Refused as refused:
            print(f"{path}: {one_line(refused.text)}", file=sys.stderr)
            worst = 2
            continue
        print(text(outcome), flush=True)
        worst = max(worst, 0 if outcome.good else 1)
        if args.json and outcome.warning:
            print(f"no record was added to {args.json}", file=sys.stderr)
        elif args.json:
            append(args.json, outcome)
    return worst


def usable(device: str) -> None:
    """Raises UsageError for a device that torch cannot use here."""
    import torch

    from .worker.device import cuda_runtime

    try:
        if torch.device(device).type != "cuda":
            raise RuntimeError("only cpu and cuda are supported")
        if not torch.cuda.is_available():
            raise RuntimeError("this machine has no GPU")
        cuda_runtime()
    except (RuntimeError, OSError) as error:
        raise UsageError(
            f"--device {device}: {str(error).splitlines()[0]}; leave the option out for the CPU"
        ) from None


def say(line: str) -> None:
    """Show progress, on a terminal only; an empty line clears it."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def show(paths: list[str], picture: str | None, page: str | None) -> None:
    """Print a table of records; plot them and write their page if asked."""
    from .record import read, table

    records = [record for path in paths for record in read(path)]
    print(table(records))
    if picture:
        from .roofline_plot import plot

        plot(records, picture)
    if page:
        from .page import text

        with replacing(Path(page)) as temporary:
            temporary.write_text(text(records, paths, page), encoding="utf-8")


def verify(paths: list[str], model: str | None) -> int:
    """Run records again, one after the other; returns the worst status."""
    from .record import read

    records = [record for path in paths for record in read(path)]  # all, before any of it runs
    return max([verified(record, model) for record in records])


def verified(record: dict[str, Any], model: str | None) -> int:
    """Run a record again and print whether it holds; returns 0, 1, or 2 if it cannot be run."""
    from . import verify as again

    try:
        file, options = again.repeatable(record, model)
        ready(options.device)
        holds, lines = again.compared(record, file, options, say)
    except UsageError as error:
        print(f"{one_line(record['slot'])}  {one_line(record['file'])}  {error}", file=sys.stderr)
        return 2
    print("\n".join(lines), flush=True)
    return 0 if holds else 1
