"""melfront benchmarks COMMAND: each is a function, arguments -> exit status."""

from __future__ import annotations

import pkgutil
import sys

from melfront.command import UsageError, exit_status

COMMANDS = {
    "kernel": ("kernel.cli:main", "prove a kernel right, then time it"),
    "frontend": ("speed.cli:frontend", "time log-mel features against other libraries"),
    "encoder": ("speed.cli:encoder", "time hidden states against other libraries"),
    "load": ("speed.cli:load", "time loading a checkpoint against transformers"),
    "gpu": ("gpu.cli:main", "numbers and times that only a GPU can give"),
}
PROG = "melfront benchmarks"
USAGE = (
    "usage: melfront benchmarks COMMAND ...\n\n"
    + "\n".join(f"  {name:10} {what}" for name, (_, what) in COMMANDS.items())
    + """

melfront benchmarks COMMAND --help says more. Example:
  melfront benchmarks kernel --template layer_norm > my_layer_norm.py
  melfront benchmarks kernel layer_norm my_layer_norm.py"""
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
    function = pkgutil.resolve_name(f"melfront.benchmarks.{COMMANDS[name][0]}")
    return int(function(rest))


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns its exit status: 0 done, 1 a proof failed, 2 bad usage, 130 Ctrl-C."""
    return exit_status(PROG, lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
