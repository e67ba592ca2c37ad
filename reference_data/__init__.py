"""Golden tensors and the sample clip. What makes them: `python -m melfront.reference_data.make`."""

import melfront  # noqa: F401  # first: in a checkout it makes this `melfront.reference_data`
