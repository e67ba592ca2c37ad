"""A measurement in a process of its own, which has so many cores and no more.

`in_process` runs this file as `python -m benchmarks.speed.own_process PARENT MODULE:NAME THREADS
JSON`. It takes its cores before anything is imported that could count them.
"""

from __future__ import annotations

import ctypes
import json
import os
import pkgutil
import signal
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from melfront.command import unwound_by

THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "RAYON")


def in_process(function: str, options: dict[str, Any], threads: int) -> Any:
    """What `function(**options)` returns, called in a new process that has `threads` cores.

    function: "module:name". The process may use no other core, and every library that starts
    threads is told how many before it is loaded. The result comes as JSON: dataclasses in it become
    dicts. Raises RuntimeError with the last line of its complaint. Ctrl-C is passed on to it once,
    and then it is waited for: it may have large files to delete. On Linux it ends as well where
    this process is killed.
    """
    command = [sys.executable, "-m", "melfront.benchmarks.speed.own_process", str(os.getpid())]
    with subprocess.Popen(
        [*command, function, str(threads), json.dumps(options)],
        env=os.environ | {f"{name}_NUM_THREADS": str(threads) for name in THREADS},
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


def main() -> None:
    with unwound_by([]):
        end_with(int(sys.argv[1]))
        measure(sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4]))


def end_with(parent: int) -> None:
    """From now on, get SIGTERM when the parent ends, however it ends. Linux only."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it has ended already
            raise KeyboardInterrupt


def measure(function: str, threads: int, options: dict[str, Any]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch

    torch.set_num_threads(threads)
    print(json.dumps(pkgutil.resolve_name(function)(**options), default=asdict))


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
