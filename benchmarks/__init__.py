"""Speed and memory of the front end and the encoder, and kernels: melfront benchmarks."""

import melfront  # noqa: F401  # first: in a checkout it makes this `melfront.benchmarks`
