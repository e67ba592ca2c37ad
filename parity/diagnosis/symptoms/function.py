"""An elementwise step that differs: the error depends on a value alone."""

from __future__ import annotations

import numpy as np

from ...noise import rms
from .view import TIMES, View, short

ENOUGH = 4096  # values, so that neighbours in size are near each other
DENSE = 1e-3  # of the range: values that lie further apart tell nothing


def function_of_the_truth(v: View) -> str:
    """Where such a step is wrong; "" if the error is no function of the truth."""
    if np.iscomplexobj(v.truth) or v.truth.size < ENOUGH:
        return ""
    order = np.argsort(v.truth, axis=None)
    truth, error = v.truth.ravel()[order], (v.mine - v.truth).ravel()[order]
    if not (truth[-1] > truth[0]):
        return ""
    gaps, jumps = np.diff(truth), np.diff(error)
    near = gaps <= DENSE * (truth[-1] - truth[0])
    new = gaps > 0
    if not (near & new).sum() > ENOUGH / 2:
        return ""
    # What neighbours in size differ by, against what they would if the error were by chance.
    if not (TIMES * rms(jumps[near]) <= np.sqrt(2) * rms(error - error.mean())):
        return ""
    bad = np.flatnonzero(np.abs(error) > rms(error) / 2)
    where = f"most for values from {short(truth[bad[0]])} to {short(truth[bad[-1]])}"
    return f"the error depends on the value alone, {where}: an elementwise step is another"
