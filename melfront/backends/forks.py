"""torch in processes that are forked."""

from __future__ import annotations

import os
from functools import cache, partial

import torch


@cache
def one_thread_in_forks() -> None:
    """Let the processes that are forked from now on compute with one thread of torch.

    OpenMP keeps the threads that torch's operations on a CPU use, and a fork takes none of them
    along. Where the parent has used them, the child would wait for them for ever; with one thread
    it asks for none. `torch.set_num_threads` in the child undoes it.
    """
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))
