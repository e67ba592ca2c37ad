"""A measurement in its own process: `-m benchmarks.speed.own_process MODULE:NAME THREADS JSON`.

Cores are taken before anything is imported that could count them.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    function, threads, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import importlib

    import torch

    torch.set_num_threads(threads)
    module, name = function.split(":")
    result = getattr(importlib.import_module(module), name)(**options)
    print(json.dumps(result))


def peak(reset: bool = False) -> int:
    """The most memory that this process has held since it began or since the last reset, in bytes.

    Linux only; elsewhere 0.
    """
    try:
        if reset:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # sets the high-water mark back to what is held now
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["VmHWM"].split()[0]) * 1024
    except OSError:
        return 0


if __name__ == "__main__":
    main()
