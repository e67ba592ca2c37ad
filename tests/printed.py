"""Read a command's output, and compare it with the output that a page shows, on any CPU.

One unit of noise is the error of the CPU's own FFT, sums and erf. Correct kernels differ in it by a
factor of two or three, so these figures are compared by their order of magnitude.
"""

import os
import re

from melfront.parity import noise as measure

NOISE = re.compile(r"\S+(?= x (?:float32 )?noise)")  # "2.3e3 x noise"
LARGEST = re.compile(r"(?<=max abs )\S+")  # an absolute error, which does not depend on the unit


def like(expected: str, line: str) -> bool:
    """Whether two lines have the same words, noise of the same order, and the same largest error.

    For a stage that passes, the largest error and its position depend on rounding and are ignored.
    """
    passes = re.search(r"\bPASS\b", expected)
    if passes:
        expected, line = (re.sub(r"(x noise).*", r"\1", text) for text in (expected, line))
    expected_words, words = (LARGEST.sub("#", NOISE.sub("#", x)).split() for x in (expected, line))
    if words != expected_words:
        return False

    def pairs(figure):
        both = zip(figure.findall(expected), figure.findall(line), strict=True)
        return [(float(a), float(b)) for a, b in both]

    if passes:
        return all(0 <= b <= measure.PASS_LIMIT["float32"] for _, b in pairs(NOISE))
    same_order = all(0.1 <= b / a <= 10 for a, b in pairs(NOISE))
    return same_order and all(abs(b - a) <= 0.02 * a for a, b in pairs(LARGEST))


def all_shown(terminal: int) -> bytes:
    """What is written to the other end of a terminal until that is closed; closes this one."""
    shown = b""
    try:
        while more := os.read(terminal, 1 << 16):
            shown += more
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    return shown
