"""python -m benchmarks COMMAND: each is a function, arguments -> exit status."""

from __future__ import annotations

import importlib
import sys

from melfront.command import exit_status

COMMANDS = {
    "kernel": ("benchmarks.kernel.cli:main", "prove a kernel right, then time it"),
    "frontend": ("benchmarks.speed.cli:frontend", "log-mel features, beside other libraries"),
    "encoder": ("benchmarks.speed.cli:encoder", "hidden states, beside other libraries"),
    "load": ("benchmarks.speed.cli:load", "loading a checkpoint, beside transformers"),
    "gpu": ("benchmarks.gpu.cli:main", "numbers and times that only a GPU can give"),
}
USAGE = (
    "usage: python -m benchmarks COMMAND ...\n\n"
    + "\n".join(f"  {name:10} {what}" for name, (_, what) in COMMANDS.items())
    + """

python -m benchmarks COMMAND --help says more. Example:
  python -m benchmarks kernel --template layer_norm > my_layer_norm.py
  python -m benchmarks kernel layer_norm my_layer_norm.py"""
)


def main(arguments: list[str]) -> int:
    """Run a command. Returns its exit status: 0 done, 1 a proof failed, 2 bad usage, 130 Ctrl-C."""
    if not arguments:
        expected = f"expected {', '.join(COMMANDS)}; see python -m benchmarks --help"
        print(f"no benchmark given; {expected}", file=sys.stderr)
        return 2
    if arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"{name!r} is no benchmark; expected {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, _, function = COMMANDS[name][0].partition(":")
    return exit_status(
        "python -m benchmarks",
        lambda: int(getattr(importlib.import_module(module), function)(rest)),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
