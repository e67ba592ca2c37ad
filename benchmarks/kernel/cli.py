"""melfront benchmarks kernel: the command line."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path

from melfront.command import Parser, UsageError, check_output
from melfront.encoder import SIZES

from . import slots

DTYPES = ("float32", "bfloat16", "float16")

EXAMPLES = """
examples:
  melfront benchmarks kernel --template layer_norm > my_layer_norm.py
  melfront benchmarks kernel layer_norm my_layer_norm.py
  melfront benchmarks kernel attention a.py b.py --size base --json runs.jsonl
  melfront benchmarks kernel --show runs.jsonl --plot roof.png

The file defines a function of the slot's name. It gets torch tensors, or NumPy
arrays if it says ARRAYS = "numpy", and returns new memory, or fills a parameter
named `out` if it has one.
Exit status: 0 proved, 1 not, 2 bad input.
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
    add("--seconds", type=float, default=4.0, help="of timing for each case (default 4)")
    add("--limit", type=float, default=20.0, help="seconds that a call may take (default 20)")
    add("--seed", type=int, help="repeat a run's random sizes and contents")
    add("--depth", type=positive, metavar="N", help="blocks of the encoder that is run as a whole")
    add("--no-whole", action="store_true", help="do not run the encoder with the kernel in it")
    add("--prints", action="store_true", help="show what the kernel prints")
    add("--json", metavar="RUNS.jsonl", help="append a record, unless the machine is busy")
    add("--show", metavar="RUNS.jsonl", help="a table of records")
    add("--plot", metavar="OUT.png", help="with --show: their roofline")
    return p


def positive(text: str) -> int:
    """An integer of at least 1. Raises ValueError, which argparse reports."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def processors() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def main(arguments: list[str]) -> int:
    """The command; returns its exit status. Raises UsageError."""
    args = parser().parse_intermixed_args(arguments)
    if empty := [name for name, value in vars(args).items() if value == ""]:
        raise UsageError(f"the value of {empty[0]} is empty; give one, or leave it out")
    if args.show:
        show(args.show, args.plot)
        return 0
    if args.plot:
        raise UsageError("--plot draws records: give them with --show RUNS.jsonl")
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


def judge_files(args: argparse.Namespace) -> int:
    """Prove and time each file, the next one even if this one fails; returns the worst status."""
    from .sandbox.processes import SLEEP, fork_server

    os.environ.update(SLEEP)  # for this process too, whose libraries are not loaded yet
    if args.device != "cpu":
        usable(args.device)
    fork_server()  # it imports torch while we do
    import secrets

    from .reasons import Refused
    from .record import append
    from .report import text
    from .run import Options, judge_file

    args.whole = not args.no_whole
    args.threads = args.threads or processors()
    args.seed = secrets.randbits(31) if args.seed is None else args.seed
    options = Options(**{f.name: getattr(args, f.name) for f in fields(Options)})
    worst = 0
    for path in args.files:
        try:
            outcome = judge_file(path, args.slot, options, say)
        except Refused as refused:
            print(f"{path}: {refused.text}", file=sys.stderr)
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


def show(path: str, picture: str | None) -> None:
    """Print a table of records, and plot them if asked."""
    from .record import read, table

    records = read(path)
    print(table(records))
    if picture:
        from .roofline_plot import plot

        plot(records, picture)
