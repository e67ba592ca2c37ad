"""The pictures of the page: which tensors are drawn, how, and the labels of their axes.

# L blocks  F frames  T positions  S state  H heads  M mel bins  K frequencies  R rows drawn
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import melfront
from melfront import conventions, filterbank
from melfront.conventions import FRAMES_PER_SECOND

from ..config import EncoderConfig
from .blocks import thinned
from .measure import CONV2_STRIDE, AttentionMaps, Seen
from .picture import LEVELS, Picture, png, rgb, spread, two_ramps

Array = NDArray[Any]
FRAME_MS = 1000 // FRAMES_PER_SECOND
POSITION_MS = CONV2_STRIDE * FRAME_MS
DECADES = 12.0  # of power shown below the maximum
CHANNELS = 8  # shown of each convolution
ROWS = 56  # at most, in a picture of many channels
MOST_DEPTHS = 9  # labels along the blocks, at most
ATTENTION_LEVELS = 64
FAINT = 0.05  # of the share that uniform attention would give: the darkest colour
LABELLED_HZ = (4000, 2000, 1000, 500, 250, 125)
STEM = {1: ("conv1", "gelu1"), 2: ("conv2", "gelu2")}  # pictures of each convolution
APART = 0.06  # of the height: labels closer than that would touch


def pictures(seen: Seen, config: EncoderConfig) -> dict[str, Picture]:
    """Every picture with time across, by name."""
    every = [
        *front_end(seen.front, config.n_mels),
        *convolution(seen.stem, 1, FRAME_MS, len(seen.audio)),
        *convolution(seen.stem, 2, POSITION_MS, len(seen.audio)),
        *walk(seen, config.n_audio_layer),
    ]
    kept = thinned(config.n_audio_state, ROWS)
    labels = [f"channel {c}" for c in kept]
    table = seen.stem["positions"].T - seen.stem["gelu2"]  # (S, T): what was added
    every.append(signed("table", table[kept], 1.0, POSITION_MS, labels))
    every += [signed(name, *one[0]) for name, one in inside(seen).items()]
    for name, states in ("before", seen.before), ("after", seen.after):
        x = states[:, kept].T  # (R, T)
        every.append(signed(name, x, spread(x[:, : seen.in_view], 0.99), POSITION_MS, labels))
    return {picture.name: picture for picture in every}


def corners(n_mels: int) -> Array:
    """The corners of the mel triangles in Hz, (M + 2,): triangle m peaks at corner m + 1."""
    top = float(filterbank.hz_to_mel(melfront.SAMPLE_RATE / 2))
    return filterbank.mel_to_hz(np.linspace(0, top, n_mels + 2).astype(np.float64))


def front_end(front: dict[str, Array], n_mels: int) -> list[Picture]:
    """Power, the logarithm before the clamp, and the features."""
    power = np.log10(np.maximum(front["power"].T, 1e-30))  # (K, F)
    hz = np.arange(len(power)) * melfront.SAMPLE_RATE / melfront.N_FFT
    of_power = [f"frequency {k}, {f:.0f} Hz" for k, f in enumerate(hz)]
    power_ticks = {k: f"{hz[k]:.0f}" for k in range(0, len(hz), 25)}
    most, unit = power.max(), "log10 of power"

    hz = corners(n_mels)[1:-1]
    of_mel = [f"mel bin {m}, {f:.0f} Hz" for m, f in enumerate(hz)]
    mel_ticks: dict[float, str] = {}
    for f in LABELLED_HZ:
        row = float(np.interp(f, hz, np.arange(n_mels)))  # between two, where no bin's centre is
        if hz[0] <= f <= hz[-1] and all(row + APART * n_mels <= other for other in mel_ticks):
            mel_ticks[row] = str(f)
    log, x = front["log"], front["features"]
    cut = two_ramps(cut_share(log))
    return [
        quantised("power", power, most - DECADES, most, FRAME_MS, of_power, power_ticks, unit),
        quantised("log", log, log.min(), log.max(), FRAME_MS, of_mel, mel_ticks, unit, "cut", cut),
        quantised("features", x, x.min(), x.max(), FRAME_MS, of_mel, mel_ticks),
    ]


def walk(seen: Seen, n_layer: int) -> list[Picture]:
    """The norm of the state along the blocks, and its cosine across each; row 0 is the first."""
    depths = ["into block 1", *(f"after block {i + 1}" for i in range(n_layer))]
    marks = ["input", *(str(i + 1) for i in range(n_layer))]
    every = []
    for name, values, first, palette in (
        ("norm", np.log10(np.maximum(seen.norm, 1e-9)), 0, "magma"),
        ("cosine", seen.cosine, 1, "viridis"),
    ):
        # Without the few outliers, which would leave one colour for all other positions.
        low, high = np.quantile(values[:, : seen.in_view], (0.01, 0.99))
        rows = range(0, len(values), -(-n_layer // MOST_DEPTHS))
        axis = depths[first:], {r: marks[r + first] for r in rows}
        every.append(quantised(name, values, low, high, POSITION_MS, *axis, name, palette))
    return every


def of_states(states: dict[str, Array], seen: Seen) -> dict[str, Array]:
    """What the encoder's pictures show of these states (by stage), by picture."""
    every = [states["positions"], *(x for n, x in states.items() if n.endswith("mlp_residual"))]
    norm = np.stack([np.linalg.norm(x, axis=-1) for x in every])  # (L + 1, T)
    dots = np.stack([(x * y).sum(axis=-1) for x, y in itertools.pairwise(every)])  # (L, T)
    kept = thinned(every[0].shape[1], ROWS)
    channels = {
        i: drawn_channels(seen.stem, i, step, len(seen.audio))
        for i, step in ((1, FRAME_MS), (2, POSITION_MS))
    }
    return {
        **{name: states[name][channels[i]] for i, both in STEM.items() for name in both},
        "table": (states["positions"].T - states["gelu2"])[kept],
        "norm": np.log10(np.maximum(norm, 1e-9)),
        "cosine": dots / np.maximum(norm[1:] * norm[:-1], 1e-9),
        "before": every[-1][:, kept].T,
        "after": states["ln_post"][:, kept].T,
    }


def faintest(group: int, n_audio_ctx: int) -> float:
    """log10 of the share that has the darkest colour, with so many positions a pixel."""
    return float(np.log10(FAINT * group / n_audio_ctx))


def numbers_of(attention: AttentionMaps) -> dict[str, Any]:
    """What the page says of each head, and how its picture lies: "wide" is in seconds."""
    return {
        "padding": attention.padding.round(4).tolist(),
        "distance": (attention.distance * POSITION_MS / 1000).round(3).tolist(),
        "group": attention.group,
        "wide": attention.shares.shape[-1] * attention.group * POSITION_MS / 1000,
    }


def cut_share(log: Array) -> float:
    """The share of the range of the logarithms (M, F) that is below the clamp, 0 .. 1."""
    above = conventions.TRANSFORMERS.dynamic_range / max(float(np.ptp(log)), 1e-12)
    return max(1 - above, 0.0)


def quantised(
    name: str,
    values: Array,
    low: float,
    high: float,
    step: int,
    labels: Sequence[str],
    ticks: Mapping[int, str] | Mapping[float, str] | None = None,
    unit: str = "",
    palette: str = "magma",
    colours: Array | None = None,
) -> Picture:
    """A picture of values (R, C) between low and high.

    ticks: the labels of some rows; colours: those of a palette that is not matplotlib's.
    """
    low, high = float(low), max(float(high), float(low) + 1e-6)
    source = png(values, low, high, rgb(palette, LEVELS) if colours is None else colours)
    rows, columns = values.shape
    at = [((row + 0.5) / rows, text) for row, text in (ticks or {}).items()]
    return Picture(name, source, columns, rows, step, low, high, palette, unit, labels, at)


def signed(
    name: str,
    values: Array,
    size: float,
    step: int,
    labels: Sequence[str],
    ticks: Mapping[int, str] | Mapping[float, str] | None = None,
) -> Picture:
    """A picture of values (R, C) of either sign; 0 has the middle colour of the palette."""
    return quantised(name, values, -size, size, step, labels, ticks, palette="berlin")


def steps_of(n_samples: int, step: int) -> int:
    """How many steps of so many milliseconds hold samples of the clip."""
    return -(-n_samples * FRAMES_PER_SECOND // (melfront.SAMPLE_RATE * step // FRAME_MS))


def drawn_channels(stem: dict[str, Array], i: int, step: int, n_samples: int) -> Array:
    """Which channels of a convolution are drawn: (CHANNELS,)."""
    heard = stem[f"conv{i}"][:, : steps_of(n_samples, step)]
    opened = (heard > 0).mean(axis=1)  # share of the time that GELU lets a channel through
    change = heard.std(axis=1) * (np.abs(opened - 0.5) < 0.4)
    return np.sort(change.argsort()[-CHANNELS:])


def convolution(stem: dict[str, Array], i: int, step: int, n_samples: int) -> list[Picture]:
    """The channels that vary most, of those that GELU opens and closes; before and after it."""
    before, after = stem[f"conv{i}"], stem[f"gelu{i}"]  # (S, F or T)
    kept = drawn_channels(stem, i, step, n_samples)
    n_clip = steps_of(n_samples, step)
    size = spread(after[kept, :n_clip], 0.998)  # so that what GELU lets through shows
    axis = [f"channel {c}" for c in kept], {r: str(c) for r, c in enumerate(kept)}
    return [
        signed(f"{kind}{i}", x[kept], size, step, *axis)
        for kind, x in (("conv", before), ("gelu", after))
    ]


def inside(seen: Seen) -> dict[str, list[Any]]:
    """What `signed` draws of each block, by the picture's name; all blocks have one range."""
    found: dict[str, list[Any]] = {}
    for name, blocks in seen.inside.drawn.items():
        labels = [f"{'unit' if name == 'units' else 'channel'} {c}" for c in seen.inside.rows[name]]
        size = spread(blocks, 0.995)
        found[name] = [(block, size, POSITION_MS, labels) for block in blocks]
    return found


def kernels(seen: Seen, n_mels: int) -> list[dict[str, Any]]:
    """The kernels of the drawn channels of the first convolution, over (mel bin, 3 frames)."""
    hz = corners(n_mels)[1:-1]
    found = []
    for channel in drawn_channels(seen.stem, 1, FRAME_MS, len(seen.audio)):
        kernel = seen.kernels[channel]  # (M, 3)
        source = png(kernel, -spread(kernel, 1.0), spread(kernel, 1.0), rgb("berlin", LEVELS))
        bin_, frame = np.unravel_index(np.abs(kernel).argmax(), kernel.shape)
        how = "loud" if kernel[bin_, frame] > 0 else "quiet"
        words = f"{how} at {hz[bin_]:.0f} Hz, {('a frame before', 'now', 'a frame after')[frame]}"
        found.append({"channel": int(channel), "source": source, "answers": words})
    return found


def attention_pictures(attention: AttentionMaps, config: EncoderConfig) -> dict[str, Any]:
    """Each head's picture, queries downwards, and the range of its colours, log10 of the share."""
    low = faintest(attention.group, config.n_audio_ctx)
    palette = rgb("magma", ATTENTION_LEVELS)
    shares = np.log10(np.maximum(attention.shares, 1e-12))[:, :, ::-1]  # row 0 is at the bottom
    return {
        "low": low,
        "sources": [[png(head, low, 0.0, palette) for head in block] for block in shares],
        **numbers_of(attention),
        "ticks": [(1 - e / low, f"{100 * 10**e:g} %") for e in range(-3, 0) if e > low],
    }
