"""Let idle threads sleep, as in the harness. No effect once NumPy and torch are loaded."""

import os

from melfront.benchmarks.kernel.sandbox.processes import SLEEP

os.environ.update(SLEEP)
