"""Namespaces of a worker's own (Linux): no network, and no way to other processes or a terminal.

Without any right to it, a process may have a user namespace, and in it all the others. From there
neither the memory nor the descriptors of a process outside can be opened, though it belongs to the
same user, and no signal reaches it; a mount of /proc of its own does not even show it.
user_namespaces(7), pid_namespaces(7) and ptrace(2) say so. Imports the standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

NEW_MOUNTS, NEW_IPC, NEW_USERS, NEW_PIDS, NEW_NET = (1 << n for n in (17, 27, 28, 29, 30))
SET_DEATH_SIGNAL, SET_DUMPABLE, SET_SUBREAPER, SET_NO_NEW_RIGHTS = 1, 4, 36, 38  # for prctl
NO_SUID_DEV_OR_EXEC = 2 | 4 | 8
HIDDEN = ("/dev/pts", "/dev/shm")  # terminals of the same user, and memory that others share

MOST_DESCRIPTORS = 4096  # far more than the fork server opens
STOPPED = 100  # exit status of a worker that somebody stopped for a while


def prctl(option: int, value: int) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def separate() -> None:
    """Give this process's children namespaces of their own. Raises OSError."""
    if not sys.platform.startswith("linux"):
        raise OSError(f"{sys.platform} has no namespaces")
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.geteuid(), os.getegid()
    if libc.unshare(NEW_USERS | NEW_MOUNTS | NEW_NET | NEW_IPC | NEW_PIDS):
        raise OSError(f"unshare: {os.strerror(ctypes.get_errno())}")
    # The user is who he was, or his files and a GPU's would not be his.
    maps = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
    for name, text in maps.items():
        Path("/proc/self", name).write_text(text)


def settle_in() -> None:
    """In the new namespaces: hide what must not be seen, and give up the right to uncover it."""
    libc = ctypes.CDLL(None)
    # Where /proc is covered in part, as in some containers, it stays as it is.
    libc.mount(b"proc", b"/proc", b"proc", NO_SUID_DEV_OR_EXEC, None)
    for place in HIDDEN:
        libc.mount(b"tmpfs", place.encode(), b"tmpfs", NO_SUID_DEV_OR_EXEC, b"mode=1777")
    prctl(SET_DUMPABLE, 1)  # as it was: to have its own files in /proc
    prctl(SET_NO_NEW_RIGHTS, 1)
    libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())


def hindrance(needed: str) -> str:
    """Why workers cannot have namespaces of their own, or nothing: tried in a process.

    needed: a file that they must be able to read.
    """
    said, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            separate()
            if os.fork() == 0:
                settle_in()
                if not os.access(needed, os.R_OK):
                    os.write(say, f"only root's rights make {needed} readable".encode())
                os._exit(0)
            os.wait()
        except OSError as error:
            os.write(say, str(error).encode())
        os._exit(0)
    os.close(say)
    os.waitpid(pid, 0)
    with open(said, "rb") as words:
        return words.read().decode()


def keep(work: Callable[[], object], isolated: bool, tell: Callable[..., object]) -> None:
    """Run `work` in a process and end as it ends. Does not return.

    tell: called with the ids of that process and of the first of its namespaces. What the worker
    leaves behind becomes a child of one of the two. As the first itself it could not be ended by
    a signal of its own, as abort() sends it.
    """
    first = 0
    prctl(SET_SUBREAPER, 1)
    if isolated:
        separate()
        prctl(SET_DEATH_SIGNAL, signal.SIGKILL)  # again: it is lost with a change of rights
        first = child(wait_forever)
    worker = child(work)
    tell(worker, first)
    close_all_but()
    _, status = os.waitpid(worker, os.WUNTRACED | os.WCONTINUED)
    stopped = not (os.WIFEXITED(status) or os.WIFSIGNALED(status))
    if stopped:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
    if first:
        os.kill(first, signal.SIGKILL)  # and with it all that lives there
        os.waitpid(first, 0)
    end_as(STOPPED if stopped else os.waitstatus_to_exitcode(status))


def child(work: Callable[[], object]) -> int:
    """A process that does this, and ends with us; its id."""
    pid = os.fork()
    if pid == 0:
        prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
        try:
            work()
        finally:
            os._exit(0)
    return pid


def wait_forever() -> None:
    """What the first process of a namespace does: it lets those that it adopts end."""
    close_all_but()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        time.sleep(1000)


def close_all_but(*fds: int) -> None:
    """Close all descriptors but these and the first three."""
    ends = [2, *sorted(fds), MOST_DESCRIPTORS]
    for a, b in itertools.pairwise(ends):
        os.closerange(a + 1, b)


def end_as(status: int) -> None:
    """Exit with this status, or, where it is negative, by that signal."""
    if status < 0:
        prctl(SET_DUMPABLE, 0)  # one core is enough
        with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)
