"""The program that workers are forked from: NumPy and torch are imported once.

A kernel that dies takes nothing with it, and the next one starts at once. The fork server of
`multiprocessing` would not do: its workers import the module of the function that they run, so a
kernel would find our packages there; it warns of each process that it adopts; and the process id by
which those are found is private.

`processes.ForkServer` runs this program with one end of a socket, and sends it orders.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
from typing import Any

from .watched import forget_ours
from .worker import Worker


def serve(link: socket.socket) -> None:
    """Fork a worker for every set of descriptors that comes in, or wait for one that has ended."""
    # Our package was needed to get here. A kernel that imports it must not get it from here.
    own = forget_ours()
    if sys.platform.startswith("linux"):
        # Makes what a kernel leaves behind a child of this process, so that it can be found.
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    import numpy  # noqa: F401  # so that the workers have it
    import torch  # noqa: F401  # as above

    while True:
        fds = array.array("i")
        data, ancillary, _, _ = link.recvmsg(4096, socket.CMSG_SPACE(3 * fds.itemsize))
        if not data:
            return
        for _, _, payload in ancillary:
            fds.frombytes(payload)
        order = json.loads(data)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                link.close()
                work(list(fds), order, own)
            for fd in fds:
                os.close(fd)
        link.sendall(b"%d\n" % answer)


def work(fds: list[int], order: dict[str, Any], own: list[Any]) -> None:
    """Be a worker until the parent closes its pipe. Does not return."""
    os.setsid()  # so that what it starts can be found, and ended with it
    if sys.platform.startswith("linux"):
        # It ends with the fork server, which ends with the program: also while a kernel hangs.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if order["prints"]:
        os.dup2(2, 1)
    else:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
    try:
        Worker(fds, order["size"], own).serve()
    finally:
        os._exit(0)


if __name__ == "__main__":
    with contextlib.suppress(ConnectionError):  # the parent has ended
        serve(socket.socket(fileno=int(sys.argv[1])))
