"""The signals of reference_data: short clips, each from a formula that any language reproduces.

Every sample is an integer over a power of two, so float32 holds it exactly. Together the signals
show every front-end mistake of the catalogue: `parity/MISTAKES.md` says which shows which.

z[i] is element i of the splitmix64 sequence whose seed is the FNV-1a of the text given, as in
`encoder/formula.py`; >> shifts right; s[i] are the 16-bit samples of reference_data/sample.flac.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

import melfront
from melfront.audio import SAMPLE
from melfront.conventions import CHUNK_LENGTH
from melfront.encoder import formula

Clip = NDArray[np.float32]
PREFIX = "signal:"  # `signal:speech` stands for the clip in a dump's metadata
CUT = 40_001  # where in the sample clip the pieces begin: inside a vowel
# sin(2 pi i / 16) times 2^14, rounded: one period of 1 kHz at 16 kHz.
SINE = (0, 6270, 11585, 15137, 16384, 15137, 11585, 6270)


@dataclass(frozen=True)
class Signal:
    """A clip or a batch, what it is padded to, and why it is there."""

    formula: str
    shows: str
    make: Callable[[], Clip | list[Clip]]
    pad_to: float | None = None  # seconds; None: its own length


@lru_cache(maxsize=1)
def sample() -> Clip:
    """The sample clip, (129600,)."""
    return melfront.load_audio(SAMPLE)


def piece(count: int) -> Clip:
    return sample()[CUT : CUT + count]


def noise(text: str, count: int, bits: int) -> Clip:
    """White, even in [-2^-bits, 2^-bits): the upper 24 bits of z, less 2^23, over 2^(23 + bits)."""
    z = formula.mix(0, count, formula.seed(text))
    integers = (z >> np.uint64(40)).astype(np.int64) - 2**23
    return np.ldexp(integers, -23 - bits).astype(np.float32)


def tone(count: int) -> Clip:
    """1 kHz at full scale."""
    period = np.array([*SINE, *(-x for x in SINE)])
    return np.ldexp(np.resize(period, count), -14).astype(np.float32)


SIGNALS = {
    "speech": Signal(
        "x[i] = s[40001 + i] / 2^15, 6007 samples",
        "speech that begins and ends inside a vowel, so that its edges count",
        lambda: piece(6007),
    ),
    "padded": Signal(
        "the 6007 samples of 'speech', padded with zeros to 8000",
        "what becomes of the frames after the clip",
        lambda: piece(6007),
        pad_to=0.5,
    ),
    "noise": Signal(
        "x[i] = ((z[i] >> 40) - 2^23) / 2^29, seed 'noise', 5003 samples",
        "every frequency alike, at a level where the features are near 0 and float32 is finest",
        lambda: noise("noise", 5003, 6),
    ),
    "tone": Signal(
        "x[i] = t[i mod 16] / 2^14, 4999 samples; t = 0, 6270, 11585, 15137, 16384, 15137, 11585, "
        "6270, 0, -6270, -11585, -15137, -16384, -15137, -11585, -6270",
        "1 kHz at full scale: one bin holds everything, the rest is what the window leaks",
        lambda: tone(4999),
    ),
    "dc": Signal(
        "x[i] = 1/2 + t[i mod 16] / 2^16, t as in 'tone', 4993 samples",
        "a mean that is not 0",
        lambda: (tone(4993) / 4 + np.float32(0.5)).astype(np.float32),
    ),
    "impulse": Signal(
        "x[2503] = 1, all others 0, 5009 samples",
        "a single sample: the window's shape, and silence around it",
        lambda: (np.arange(5009) == 2503).astype(np.float32),
    ),
    "late": Signal(
        "x[i] = ((z[i] >> 40) - 2^23) / 2^33, seed 'late', for the first 4721 of 4801 samples, "
        "then t[(i - 4721) mod 16] / 2^14, t as in 'tone'",
        "the loudest place is in the frame that is dropped",
        lambda: np.concatenate([noise("late", 4721, 10), tone(80)]),
    ),
    "quiet": Signal(
        "x[i] = s[40001 + i] / 2^28, 5441 samples",
        "speech so quiet that its powers lie around the logarithm's floor",
        lambda: np.ldexp(piece(5441), -13).astype(np.float32),
    ),
    "faint": Signal(
        "x[i] = ((z[i] >> 40) - 2^23) / 2^43, seed 'faint', 4481 samples",
        "noise of 1e-6, all of it below the logarithm's floor",
        lambda: noise("faint", 4481, 20),
    ),
    "silence": Signal(
        "x[i] = 0, 4001 samples", "nothing at all: -1.5", lambda: np.zeros(4001, np.float32)
    ),
    "batch": Signal(
        "two clips: the first 4001 samples of 'speech'; and ((z[i] >> 40) - 2^23) / 2^33, seed "
        "'batch', 3203 samples, padded with zeros to 4001",
        "a loud and a quiet clip: each has its own maximum",
        lambda: [piece(4001), noise("batch", 3203, 10)],
    ),
    "toy": Signal(
        "the first 3001 samples of 'speech', padded with zeros to 3520",
        "22 frames, what the toy encoder hears",
        lambda: piece(3001),
        pad_to=0.22,
    ),
    "sample": Signal(
        "x[i] = s[i] / 2^15, 129600 samples, padded with zeros to 480000",
        "a whole clip as the encoder gets it",
        sample,
        pad_to=CHUNK_LENGTH,
    ),
}
SHORT = tuple(name for name in SIGNALS if name not in ("toy", "sample"))


def load(name: str) -> Any:
    """The clip of this name, or the list of clips of a batch: each (N,) float32.

    Raises ValueError for an unknown name.
    """
    if name not in SIGNALS:
        raise ValueError(f"no signal named {name!r}; expected one of {', '.join(SIGNALS)}")
    return SIGNALS[name].make()
