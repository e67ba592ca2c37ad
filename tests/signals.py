"""Signals that distinguish a correct front end from a wrong one, and their float32 noise."""

from dataclasses import dataclass
from functools import lru_cache

import hypothesis.strategies as st
import numpy as np
from safetensors.numpy import load_file

import melfront
from melfront.audio import SAMPLE

KINDS = ("silence", "dc", "clicks", "tone", "chord", "noise", "faint", "speech")


@lru_cache(maxsize=1)
def sample() -> np.ndarray:
    """(129600,) float32. Read without soundfile, which may be missing."""
    return load_file(SAMPLE.parent / "signals" / "waveforms.safetensors")["sample"]


@dataclass(frozen=True)
class Signal:
    """A signal given by its parameters, so that a failing example prints as one line."""

    kind: str
    n: int
    seed: int = 0
    scale: float = 1.0

    def array(self) -> np.ndarray:
        """(n,) float32."""
        rng = np.random.default_rng(self.seed)
        t = np.arange(self.n) / melfront.SAMPLE_RATE
        if self.kind == "silence":
            x = np.zeros(self.n)
        elif self.kind == "dc":
            x = np.full(self.n, rng.choice([-0.5, 0.7]))
        elif self.kind == "clicks":
            x = np.zeros(self.n)
            x[rng.integers(0, self.n, 1 + self.n // 4001)] = rng.choice([-1.0, 1.0])
        elif self.kind == "tone":
            x = np.sin(2 * np.pi * (rng.uniform(20, 7900) * t + rng.uniform()))
        elif self.kind == "chord":
            hz = rng.uniform(20, 7900, size=5)
            x = np.sin(2 * np.pi * (hz[:, None] * t + rng.uniform(size=(5, 1)))).mean(axis=0)
        elif self.kind == "noise":
            x = rng.uniform(-1, 1, self.n)
        elif self.kind == "faint":
            x = 1e-6 * rng.standard_normal(self.n)
        elif self.kind == "speech":
            # Starts anywhere in the sample, so both ends are loud; longer signals repeat it.
            x = np.resize(np.roll(sample(), -int(rng.integers(len(sample())))), self.n)
        else:
            raise ValueError(f"no signal of kind {self.kind!r}")
        return (x * self.scale).astype(np.float32)


def signals(max_seconds: float, min_samples: int = 1, kinds: tuple[str, ...] = KINDS):
    """A strategy for Signal: short ones as often as long ones, loud ones as often as quiet ones.

    From a wide range, hypothesis mostly draws small numbers; from 0 .. 100, it draws evenly.
    """
    longest = round(max_seconds * melfront.SAMPLE_RATE)
    short = st.integers(min_samples, min(longest, 2_003))
    any_length = st.integers(0, 100).map(
        lambda percent: min_samples + (longest - min_samples) * percent // 100
    )
    return st.builds(
        Signal,
        kind=st.sampled_from(kinds),
        n=st.one_of(short, any_length),
        seed=st.integers(0, 2**32 - 1),
        scale=st.sampled_from([1.0, 1.0, 0.37, 1e-2, 1e-4, 1e-6]),
    )


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def floor(truth: np.ndarray) -> float:
    """4 ulp of the tensor's scale: the error that any float32 result may have.

    The last steps alone (log10, add 4, divide by 4) round three times.
    """
    return 4 * float(np.spacing(np.float32(np.abs(truth).max())))


def compute(audio, backend: str, **options) -> np.ndarray:
    """`melfront.log_mel` of a clip or a list of clips.

    backend: "numba" or "numpy", which take arrays, or a torch device, whose tensors are recorded:
    tensors that are not go the way of arrays on a CPU.
    """
    if backend in ARRAYS:
        return melfront.log_mel(audio, compiled=backend == "numba", **options)
    import torch

    from tests.other_fft import device_of

    with device_of(backend) as device:

        def tensor(clip):
            return torch.tensor(clip, device=device, requires_grad=device == "cpu")

        clips = [tensor(c) for c in audio] if isinstance(audio, list) else tensor(audio)
        return melfront.log_mel(clips, **options).detach().cpu().numpy()


ARRAYS = ("numba", "numpy")
