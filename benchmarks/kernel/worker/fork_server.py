"""The program that workers are forked from: NumPy and torch are imported once.

A kernel that dies takes nothing with it, and the next one starts at once. The fork server of
`multiprocessing` would not do: its workers import the module of the function that they run, so a
kernel would find our packages there; it warns of each process that it adopts; and the process id by
which those are found is private.

`processes.ForkServer` runs this program with one end of a socket, and sends it orders. A worker has
a keeper between it and us, which `namespaces.py` explains.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from . import namespaces
from .watched import forget_ours
from .worker import Worker


def serve(link: socket.socket) -> None:
    """Fork a worker for every set of descriptors that comes in, or wait for one that has ended."""
    # Our package was needed to get here. A kernel that imports it must not get it from here.
    own = forget_ours()
    # Makes what a kernel leaves behind a child of this process, so that it can be found.
    namespaces.prctl(namespaces.SET_SUBREAPER, 1)
    import numpy  # noqa: F401  # so that the workers have it
    import torch

    hindrance = namespaces.hindrance(torch.__file__)
    while True:
        fds = array.array("i")
        data, ancillary, _, _ = link.recvmsg(4096, socket.CMSG_SPACE(4 * fds.itemsize))
        if not data:
            return
        for _, _, payload in ancillary:
            fds.frombytes(payload)
        order = json.loads(data)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            answer: Any = os.waitstatus_to_exitcode(status)
        else:
            why_not = hindrance if order["isolate"] else "it is switched off"
            run = partial(work, list(fds), order, own, not why_not)
            answer = {"pids": kept(run, not why_not), "not_isolated": why_not}
            for fd in fds:
                os.close(fd)
        link.sendall(json.dumps(answer).encode() + b"\n")


def kept(run: Callable[[], object], isolated: bool) -> list[int]:
    """Start a worker and its keeper; the ids of both, and of the first in its namespace or 0."""
    said, say = os.pipe()

    def tell(*pids: int) -> None:
        os.write(say, json.dumps(pids).encode())

    keeper = namespaces.child(lambda: namespaces.keep(run, isolated, tell))
    os.close(say)
    with open(said, "rb") as pids:
        worker, first = json.load(pids)
    return [worker, keeper, first]


def work(fds: list[int], order: dict[str, Any], own: list[Any], isolated: bool) -> None:
    """Be a worker until the parent closes its pipe."""
    os.setsid()  # so that what it starts can be found, and ended with it; and without a terminal
    if isolated:
        namespaces.settle_in()
    elif order["ours"]:
        # No other user's process, and none of the same user without root's rights, may look in.
        namespaces.prctl(namespaces.SET_DUMPABLE, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    *fds, prints = fds if order["prints"] else [*fds, 0]
    for fd in (1, 2):
        os.dup2(prints, fd)
    namespaces.close_all_but(*fds)
    Worker(fds, order["size"], own).serve()


if __name__ == "__main__":
    with contextlib.suppress(ConnectionError):  # the parent has ended
        serve(socket.socket(fileno=int(sys.argv[1])))
