"""The picture of `melfront --plot`: the waveform, and below it the features."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .conventions import CHUNK_LENGTH, FRAMES_PER_SECOND, SAMPLE_RATE
from .filterbank import hz_to_mel, mel_to_hz

LABELLED_HZ = (100, 500, 1000, 2000, 4000, 7000)
PIXELS = 2000  # columns of the waveform, more than the picture is wide


def envelope(audio: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Time in s, minimum and maximum of each column, so that every peak of a long clip shows."""
    step = -(-len(audio) // PIXELS)
    at = np.arange(0, len(audio), step)
    return at / SAMPLE_RATE, np.minimum.reduceat(audio, at), np.maximum.reduceat(audio, at)


def label_frequencies(axes: Axes, n_mels: int) -> None:
    """Label the bins nearest to round frequencies with the frequency of their centre."""
    corners = np.linspace(float(hz_to_mel(0.0)), float(hz_to_mel(8_000.0)), n_mels + 2)
    centres = mel_to_hz(corners[1:-1].astype(np.float64))
    bins = sorted({int(np.abs(centres - hz).argmin()) for hz in LABELLED_HZ})
    axes.set_yticks(bins, [f"{centres[m]:.0f}" for m in bins])


def figure(audio: NDArray[Any], log_mel: NDArray[Any], name: str) -> Figure:
    """audio (N,) at 16 kHz above its features: (M, 3000), or (n, M, 3000) for n windows of 30 s."""
    seconds = len(audio) / SAMPLE_RATE
    windows = log_mel[None] if log_mel.ndim == 2 else log_mel
    n_mels = windows.shape[1]
    picture = np.concatenate(list(windows), axis=1)  # (M, n * 3000)
    shown = picture[:, : max(1, -(-len(audio) * FRAMES_PER_SECOND // SAMPLE_RATE))]

    result = Figure(figsize=(10, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(result)
    above, below = result.subplots(2, 1, sharex=True, height_ratios=(1, 2.5))
    time, lowest, highest = envelope(audio)
    above.fill_between(time, lowest, highest, step="post", linewidth=0.5, color="C0")
    loudest = max(float(np.abs(audio).max()), 1e-3)
    above.set(ylim=(-1.05 * loudest, 1.05 * loudest), ylabel="amplitude")
    # A dollar sign in a file name would start a formula.
    title = f"{name}: {seconds:.2f} s, {n_mels} mel bins"
    above.set_title(title, loc="left", parse_math=False)

    # Frame f is centred on f / 100 s, bin m on m.
    half = 0.5 / FRAMES_PER_SECOND
    image = below.imshow(
        shown,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap="magma",
        extent=(-half, shown.shape[1] / FRAMES_PER_SECOND - half, -0.5, n_mels - 0.5),
    )
    label_frequencies(below, n_mels)
    below.set(xlabel="time in s", ylabel="centre of mel bin in Hz", xlim=(0, seconds))
    for start in np.arange(CHUNK_LENGTH, seconds, CHUNK_LENGTH):  # where a new window begins
        below.axvline(start, color="white", linewidth=0.8, linestyle=":")
    bar = result.colorbar(image, ax=below, pad=0.01)
    bar.set_label("feature (one unit is 40 dB)")
    return result
