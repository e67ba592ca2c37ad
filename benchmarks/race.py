"""Contestants called in turn, A B C A B C, and what their times say: of libraries and of kernels.

Each round calls every contestant once, in another order, so that all of them meet the same machine.
A contestant may come twice under two names: a difference no larger than theirs does not count.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

PAUSE = 0.02  # seconds between two looks at what still runs
WARM = 0.01  # seconds that untimed calls take, at least
LONG = 0.3  # a contestant that takes longer is warmed up once, not before each call
TRIM = 0.2  # of the rounds, at either end, are left out of a ratio
TOO_BUSY = 2.0  # a machine on which two copies differ by this factor compares nothing
Times = Sequence[float] | NDArray[np.float64]


def rounds(
    names: Iterable[str],
    seconds: float,
    least: int,
    most: float = float("inf"),
    chance: random.Random | None = None,
) -> Iterator[list[str]]:
    """The contestants in another order each round, until the time is used up.

    At least `least` rounds and at most `most`, however long they take.
    """
    order, chance = list(names), chance or random.Random(0)
    end, n = time.perf_counter() + seconds, 0
    while n < least or (n < most and time.perf_counter() < end):
        chance.shuffle(order)
        yield list(order)
        n += 1


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect garbage now, and not within the block."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def spread(times: Times) -> tuple[float, float]:
    """The 20th and the 80th percentile."""
    low, high = np.percentile(times, [20, 80])
    return float(low), float(high)


def ratio_interval(a: Times, b: Times, confidence: float) -> tuple[float, float, float]:
    """a over b, of times that share their rounds, between the ends of its interval.

    The geometric mean of the rounds' own ratios, without the lowest fifth of them and the highest:
    what slows a whole round cancels, and what slows one call is left out. The interval is Yuen's
    (1974), for a trimmed mean: the spread is that of all rounds, where each that was left out
    counts as the nearest one that was not.
    """
    from scipy.stats import mstats, trim_mean  # takes a while to import

    logs = np.log(np.maximum(a, 1e-9)) - np.log(np.maximum(b, 1e-9))
    middle = trim_mean(logs, TRIM)
    ends = (middle, middle)  # one round has no interval
    if len(logs) > 1:
        ends = mstats.trimmed_mean_ci(logs, (TRIM, TRIM), alpha=1 - confidence)
    low, ratio, high = np.exp([ends[0], middle, ends[1]])
    return float(low), float(ratio), float(high)


# --- functions in this process --------------------------------------------------------------------


def race(runs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Seconds of each call, R of each contestant: 5 rounds, and more until the time is used up.

    A call comes after a pause and untimed calls. The pause lasts until no thread of the contestant
    before is at work: OpenBLAS's spin for 0.1 s after their last product, and would take a core
    from the next. (Told to sleep at once, as in the kernel harness, they would wake too late for
    their own next step.) The untimed calls wake the contestant's own threads and warm the caches,
    for as long as a core takes to wake: after one call of 1 ms the next still takes a third longer
    than the tenth.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    lengths = {name: timed(run) for name, run in runs.items()}
    with no_garbage_collection():
        for order in rounds(runs, seconds, least(5, seconds)):
            for name in order:
                settle()
                if lengths[name] < LONG:
                    warm(runs[name])
                times[name].append(timed(runs[name]))
    return times


def least(rounds: int, seconds: float) -> int:
    """The least number of rounds: this many, or one if the time is only for trying the code."""
    return rounds if seconds >= 0.2 else 1


def settle() -> None:
    """Wait until the threads of this process use hardly any time, or for a second."""
    for _ in range(50):
        before = time.process_time()
        time.sleep(PAUSE)
        if time.process_time() - before < PAUSE / 10:
            return


def warm(run: Callable[[], object]) -> None:
    """Call it untimed, until WARM is over."""
    end = time.perf_counter() + WARM
    run()
    while time.perf_counter() < end:
        run()


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    result = run()
    stop = time.perf_counter()
    del result  # its memory is given back outside the time
    return stop - start
