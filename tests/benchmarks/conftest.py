"""Set before NumPy and torch are loaded, where this folder is run by itself."""

import os

from melfront.benchmarks.kernel.sandbox.processes import SLEEP

os.environ.update(SLEEP)
