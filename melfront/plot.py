"""The picture of `melfront --plot`: the waveform, and below it the features."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .conventions import CHUNK_LENGTH, FRAMES_PER_SECOND, HOP_LENGTH, N_FRAMES, SAMPLE_RATE
from .filterbank import hz_to_mel, mel_to_hz

LABELLED_HZ = (100, 500, 1000, 2000, 4000, 7000)
PIXELS = 2000  # columns of the waveform, more than the picture is wide
MAX_COLUMNS = 6000  # a minute of frames
MAX_LINES = 60  # half an hour of windows; beyond, the lines would hide the picture


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


class Overview:
    """A clip of any length in at most MAX_COLUMNS columns, taken up window by window.

    # M mel bins  C columns of a window
    """

    def __init__(self) -> None:
        self.samples = 0
        self.frames = 1  # in a column
        self.windows: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []

    def add(self, audio: NDArray[Any], log_mel: NDArray[Any]) -> None:
        """A window of 30 s, the last one shorter: audio (N,), log_mel (M, 3000)."""
        if not self.windows:
            self.first = audio
        self.samples += len(audio)
        at = np.arange(0, len(audio), HOP_LENGTH)
        lowest, highest = np.zeros((2, N_FRAMES))
        lowest[: len(at)] = np.minimum.reduceat(audio, at)
        highest[: len(at)] = np.maximum.reduceat(audio, at)
        self.windows.append(merged((lowest, highest, log_mel), self.frames))
        columns = N_FRAMES // self.frames
        if len(self.windows) * columns > MAX_COLUMNS and columns > 1:
            factor = next(n for n in range(2, columns + 1) if columns % n == 0)
            self.frames *= factor
            self.windows = [merged(window, factor) for window in self.windows]

    def waveform(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Time in s, minimum and maximum of each column."""
        if len(self.windows) == 1:
            return envelope(self.first)
        lowest, highest = (np.concatenate([w[i] for w in self.windows]) for i in (0, 1))
        n = self.columns()
        time = np.arange(n) * self.frames / FRAMES_PER_SECOND
        return time, lowest[:n], highest[:n]

    def features(self) -> NDArray[Any]:
        """The mean of the frames of each column that holds audio: (M, columns)."""
        return np.concatenate([w[2] for w in self.windows], axis=1)[:, : self.columns()]

    def columns(self) -> int:
        return -(-self.samples // (HOP_LENGTH * self.frames))


def merged(
    window: tuple[NDArray[Any], NDArray[Any], NDArray[Any]], factor: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """A window of `Overview` with `factor` columns made one."""
    lowest, highest, log_mel = (x.reshape(*x.shape[:-1], -1, factor) for x in window)
    return lowest.min(axis=-1), highest.max(axis=-1), log_mel.mean(axis=-1)


class Drawing(Figure):
    """A figure that a notebook shows, whatever matplotlib's backend is."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def log_mel(audio: Any, name: str = "clip", **options: Any) -> Drawing:
    """The picture of a clip of any length: a file, or samples (N,) at 16 kHz.

    options: those of `melfront.log_mel`: n_mels, convention, check_range. Raises what it raises,
    and what `melfront.stream` raises of a file.
    """
    from . import chunks, stream
    from . import log_mel as features

    clip = Overview()
    if isinstance(audio, str | Path):
        for window in stream(audio, **options):
            clip.add(window.audio, window.log_mel)
    else:
        for piece in chunks(audio):
            clip.add(piece, features(piece, **options))
    return figure(clip, name)


def figure(clip: Overview, name: str) -> Drawing:
    """The waveform at 16 kHz above its features."""
    seconds = clip.samples / SAMPLE_RATE
    shown = clip.features()  # (M, columns)
    n_mels = len(shown)

    result = Drawing(figsize=(10, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(result)
    above, below = result.subplots(2, 1, sharex=True, height_ratios=(1, 2.5))
    time, lowest, highest = clip.waveform()
    above.fill_between(time, lowest, highest, step="post", linewidth=0.5, color="C0")
    loudest = max(float(highest.max()), -float(lowest.min()), 1e-3)
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
        extent=(-half, shown.shape[1] * clip.frames / FRAMES_PER_SECOND - half, -0.5, n_mels - 0.5),
    )
    label_frequencies(below, n_mels)
    below.set(xlabel="time in s", ylabel="centre of mel bin in Hz", xlim=(0, seconds))
    starts = np.arange(CHUNK_LENGTH, seconds, CHUNK_LENGTH)  # where a new window begins
    for start in starts if len(starts) < MAX_LINES else []:
        below.axvline(start, color="white", linewidth=0.8, linestyle=":")
    bar = result.colorbar(image, ax=below, pad=0.01)
    bar.set_label("feature (one unit is 40 dB)")
    return result
