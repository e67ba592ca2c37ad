"""python -m benchmarks COMMAND: each is a function, arguments -> exit status."""

from __future__ import annotations

import importlib
import sys

from melfront.command import UsageError, exit_status

COMMANDS = {
    "kernel": ("benchmarks.kernel.cli:main", "prove a kernel right, then time it"),
    "frontend": ("benchmarks.speed.cli:frontend", "time log-mel features against other libraries"),
    "encoder": ("benchmarks.speed.cli:encoder", "time hidden states against other libraries"),
    "load": ("benchmarks.speed.cli:load", "time loading a checkpoint against transformers"),
    "gpu": ("benchmarks.gpu.cli:main", "numbers and times that only a GPU can give"),
}
PROG = "python -m benchmarks"
USAGE = (
    "usage: python -m benchmarks COMMAND ...\n\n"
    + "\n".join(f"  {name:10} {what}" for name, (_, what) in COMMANDS.items())
    + """

python -m benchmarks COMMAND --help says more. Example:
  python -m benchmarks kernel --template layer_norm > my_layer_norm.py
  python -m benchmarks kernel layer_norm my_layer_norm.py"""
)


def run(arguments: list[str]) -> int:
    names = ", ".join(COMMANDS)
    if not arguments:
        raise UsageError(f"no benchmark given; expected {names}; see {PROG} --help")
    name, *rest = arguments
    if name in ("-h", "--help"):
        print(USAGE)
        return 0
    if name not in COMMANDS:
        raise UsageError(f"unknown benchmark {name!r}; expected {names}")
    module, _, function = COMMANDS[name][0].partition(":")
    return int(getattr(importlib.import_module(module), function)(rest))


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns its exit status: 0 done, 1 a proof failed, 2 bad usage, 130 Ctrl-C."""
    return exit_status(PROG, lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
