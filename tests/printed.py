"""Lines that a command prints, next to what a page shows of it, on whatever CPU.

One unit of noise is what the CPU's own FFT, sums and erf err by, and kernels that are all right
differ by a factor of two or three: such figures are compared by their order of size.
"""

import re

from melfront.parity import noise as measure

NOISE = re.compile(r"\S+(?= x (?:float32 )?noise)")  # "2.3e3 x noise"
LARGEST = re.compile(r"(?<=max abs )\S+")  # the error itself, which is no matter of the unit


def like(expected: str, line: str) -> bool:
    """The same words, noise of the same order of size, and the same largest error.

    Where a stage passes, its largest error and where that is are matters of rounding: that it
    passes is what the line says.
    """
    passes = re.search(r"\bPASS\b", expected)
    if passes:
        expected, line = (re.sub(r"(x noise).*", r"\1", text) for text in (expected, line))
    words, its_words = (LARGEST.sub("#", NOISE.sub("#", x)).split() for x in (expected, line))
    if words != its_words:
        return False

    def pairs(figure):
        both = zip(figure.findall(expected), figure.findall(line), strict=True)
        return [(float(a), float(b)) for a, b in both]

    if passes:
        return all(0 <= b <= measure.PASS_LIMIT["float32"] for _, b in pairs(NOISE))
    same_order = all(0.1 <= b / a <= 10 for a, b in pairs(NOISE))
    return same_order and all(abs(b - a) <= 0.02 * a for a, b in pairs(LARGEST))
