"""Lines that a command prints, next to those that a page shows of it, on whatever CPU.

One unit of noise is what the CPU's own FFT, sums and erf err by, and kernels that are all right differ
by a factor of two or three: such figures are compared by their order of size.
"""

import re

from parity import measure

# What is measured in units of noise, and so in another unit on another CPU: "2.3e3 x noise".
NOISE = re.compile(r"\S+(?= x (?:float32 )?noise)")
ORDER = 10  # within an order of size
LARGEST = re.compile(
    r"(?<=max abs )\S+"
)  # of a mistake: to the digits that are printed, give or take


def like(expected: str, line: str) -> bool:
    """The same words, and noise of the same order of size.

    Where a stage passes, its largest error and where that is are matters of rounding: that it
    passes is what the line says.
    """
    passes = re.search(r"\bPASS\b", expected)
    if passes:
        expected, line = (re.sub(r"(x noise).*", r"\1", text) for text in (expected, line))
    words, its_words = (LARGEST.sub("#", NOISE.sub("#", x)).split() for x in (expected, line))
    if words != its_words:
        return False
    noise, largest = (
        [
            (float(a), float(b))
            for a, b in zip(*(p.findall(x) for x in (expected, line)), strict=True)
        ]
        for p in (NOISE, LARGEST)
    )
    if passes:
        return all(0 <= b <= measure.PASS_LIMIT["float32"] for _, b in noise)
    return all(1 / ORDER <= b / a <= ORDER for a, b in noise) and all(
        abs(b - a) <= 0.02 * a for a, b in largest
    )
