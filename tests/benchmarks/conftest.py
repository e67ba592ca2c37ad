"""Set thread options before NumPy and torch are loaded, if only this folder is run."""

import os

from melfront.benchmarks.kernel.sandbox.processes import SLEEP

os.environ.update(SLEEP)
