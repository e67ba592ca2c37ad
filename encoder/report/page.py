"""The page's content: what was measured, as pictures, numbers and lines of source.

The templates hold all the text; this module fills them.

    # L blocks  F frames  T positions  S state  H heads  M mel bins  K frequencies
"""

from __future__ import annotations

import base64
import io
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from numpy.typing import NDArray

import melfront
from melfront import conventions, filterbank
from melfront import oracle as front_end
from melfront.conventions import FRAMES_PER_SECOND

from .. import oracle as encoder_oracle
from ..command.words import Word
from ..config import EncoderConfig
from .figures import (
    ATTENTION_LEVELS,
    POSITION_MS,
    attention_pictures,
    corners,
    cut_share,
    inside,
    kernels,
    signed,
)
from .measure import CONV2_STRIDE, POSITION, Seen, positions_of, receptive_field
from .picture import LEVELS, Picture, rgb, two_ramps
from .rebuilt import rebuild
from .source import ROOT, Line, line

Array = NDArray[Any]
FAR = 5.0  # times the median size: an outlier
BARS = 60  # of the histogram
COLUMNS = 2400  # of the waveform: more than the pixels of a screen
TICK_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)

LINES: dict[str, tuple[Callable[..., Any], str]] = {
    "pad": (front_end.pad, "n_samples - len(clip)"),
    "frames": (front_end.frames, "sliding_window_view"),
    "window": (front_end.window, "np.cos"),
    "windowed": (front_end.trace, 'x["windowed"] ='),
    "spectrum": (front_end.spectrum, "rfft"),
    "power": (front_end.power, "spectrum.real"),
    "filters": (filterbank.mel_filters, "filters = "),
    "mel": (front_end.mel, "mel_filters(n_mels) @"),
    "log": (front_end.log, "np.log10"),
    "clamp": (front_end.clamp, "DYNAMIC_RANGE"),
    "scale": (front_end.scale, "clamped + 4"),
    "mask": (melfront.frame_mask, "np.arange"),
    "conv": (encoder_oracle.conv1d, "kernel[0] @ before"),
    "conv1": (encoder_oracle.encode, 'tap("conv1"'),
    "gelu": (encoder_oracle.gelu, "erf(x"),
    "conv2": (encoder_oracle.encode, 'tap("conv2"'),
    "positions": (encoder_oracle.encode, 'tap("positions"'),
    "attended": (encoder_oracle.block, 'tap("attn_residual"'),
    "widened": (encoder_oracle.block, 'tap("mlp_residual"'),
    "scores": (encoder_oracle.scores, "np.sqrt"),
    "fc2": (encoder_oracle.mlp, 'tap("fc2"'),
    "weights": (encoder_oracle.softmax, "shares.sum"),
    "context": (encoder_oracle.attention, 'tap("context"'),
    "norm": (encoder_oracle.layer_norm, "np.sqrt"),
    "last": (encoder_oracle.encode, 'tap("ln_post"'),
}


def render(
    name: str,
    n_samples: int,
    seen: Seen,
    drawn: Mapping[str, Picture],
    config: EncoderConfig,
    about: Any,
    words: Sequence[Word] = (),
    mistakes: tuple[list[dict[str, Any]], float] = ([], 0.0),
) -> str:
    """The page of a clip of n_samples, of which `seen` shows the first window.

    drawn: its pictures, by name. words: what is said when, to be shown beneath every picture.
    mistakes: as `mistakes.all_drawn` returns them, and one unit of noise, as a share of a stage's
    size.
    """
    time = ticks(seen, config)
    spoken = [word for word in words if word.start < time["span"]["clip"]]
    return template().render(
        clip=name,
        n_samples=n_samples,
        about={**about, "python": platform.python_version()},
        config=config,
        n=numbers(seen, config),
        convention=conventions.TRANSFORMERS,
        line=lines(),
        pictures=drawn,
        waveform=envelope(seen.audio),
        histogram=histogram(seen),
        spoken=spoken,
        ticks=time,
        query_ticks=[
            (1 - t / time["span"]["clip"], f"{t:g}{' s' if t == 0 else ''}") for t in time["clip"]
        ],
        audio=wav(seen.audio),
        rebuilt=sound(rebuild(seen.front["features"], len(seen.audio)), "mpeg", format="MP3"),
        kernels=kernels(seen, config.n_mels),
        mistakes=mistakes[0],
        # As it is: a browser reads no script of a type that it cannot run.
        module=Markup((ROOT / "web/melfront.js").read_text("utf-8")),
        data={
            **data(seen, config),
            "span": time["span"]["clip"],
            "spoken": spoken,
            "mistakes": mistakes[0],
            "noise": mistakes[1],
        },
    )


def template() -> Template:
    environment = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda n: f"{n:,}"
    environment.filters["log10_e"] = lambda x: f"{np.log(x):.1f}"
    environment.filters["as"] = lambda x, form: f"{x:{form}}".replace("-", "−")
    return environment.get_template("page.html.jinja")


def lines() -> dict[str, Line]:
    return {name: line(*where) for name, where in LINES.items()}


def numbers(seen: Seen, config: EncoderConfig) -> dict[str, Any]:
    """Every number that the text states about this clip and this model."""
    n_samples = len(seen.audio)
    return {
        "samples": n_samples,
        "seconds": n_samples / melfront.SAMPLE_RATE,
        "window_samples": config.n_frames * melfront.HOP_LENGTH,
        "window_seconds": config.n_frames / FRAMES_PER_SECOND,
        "n_fft": melfront.N_FFT,
        "hop": melfront.HOP_LENGTH,
        "rate": melfront.SAMPLE_RATE,
        "turn": 2 * np.pi,
        **front_end_numbers(seen, config),
        **encoder_numbers(seen, config),
    }


def front_end_numbers(seen: Seen, config: EncoderConfig) -> dict[str, Any]:
    log, features = seen.front["log"], seen.front["features"]
    n_mask = int(seen.mask.sum())
    last_sample = len(seen.audio) - 1
    hears = (last_sample + melfront.N_FFT // 2 - 1) // melfront.HOP_LENGTH + 1  # frames
    threshold = float(log.max()) - conventions.TRANSFORMERS.dynamic_range
    loudest = np.unravel_index(log.argmax(), log.shape)
    bank = melfront.mel_filters(config.n_mels)
    hz = corners(config.n_mels)[1:-1]
    return {
        "padded": seen.front["padded"].shape,
        "frequencies": seen.front["power"].shape[1],
        "hz_step": melfront.SAMPLE_RATE / melfront.N_FFT,
        "filter_weights": int(np.count_nonzero(bank)),
        "all_weights": bank.size,
        "lowest_step": float(hz[1] - hz[0]) if len(hz) > 1 else 0.0,
        "highest_step": float(hz[-1] - hz[-2]) if len(hz) > 1 else 0.0,
        "max": float(log.max()),
        "max_frame": int(loudest[1]),
        "max_hz": float(hz[loudest[0]]),
        "threshold": threshold,
        "cut": float((log < threshold).mean()),
        "cut_clip": float((log[:, :n_mask] < threshold).mean()),
        "mask": n_mask,
        "last_heard": min(hears, config.n_frames) - 1,
        "floor": float(np.log10(conventions.TRANSFORMERS.log_floor)),
        "hear_more": min(hears, config.n_frames) - n_mask,
        "padding_feature": float(features[:, -1].min()),
        "least": float(features.min()),
        "most": float(features.max()),
    }


def encoder_numbers(seen: Seen, config: EncoderConfig) -> dict[str, Any]:
    middle = config.n_audio_ctx // 2 // 50 * 50
    first, last = receptive_field(middle, config.n_frames)
    clip = slice(0, positions_of(len(seen.audio)))
    attention = seen.attention
    away = attention.distance * POSITION_MS / 1000
    near, far = (np.unravel_index(i, away.shape) for i in (away.argmin(), away.argmax()))
    cosine = seen.cosine[:, clip].mean(axis=1)
    middle_norm = float(np.median(seen.norm[-1, clip]))
    return {
        "position_samples": POSITION,
        "middle": middle,
        "field": (first, last),
        "field_samples": last - first + 1,
        "field_ms": (last - first + 1) * 1000 / melfront.SAMPLE_RATE,
        "clip_positions": clip.stop,
        "in_view": seen.in_view,
        "norms": seen.norm[:, clip].mean(axis=1).tolist(),
        "least_cosine": (int(cosine.argmin()), float(cosine.min())),
        "most_cosine": (int(cosine.argmax()), float(cosine.max())),
        "group": attention.group,
        "outliers": [int(p) for p in np.flatnonzero(seen.norm[-1, clip] > FAR * middle_norm)],
        "outlier_norm": float(seen.norm[-1, clip].max()),
        "middle_norm": middle_norm,
        "near": (*near, float(away[near])),
        "far": (*far, float(away[far])),
        "padding_share": float(attention.padding.mean()),
        "even_padding": 1 - clip.stop / config.n_audio_ctx,
        "before_size": float(np.linalg.norm(seen.before[clip], axis=1).mean()),
        "after_size": float(np.linalg.norm(seen.after[clip], axis=1).mean()),
        "before_most": float(np.abs(seen.before[clip]).max()),
        "after_most": float(np.abs(seen.after[clip]).max()),
    }


def data(seen: Seen, config: EncoderConfig) -> dict[str, Any]:
    """The data of the page's script, besides the pictures."""
    log = seen.front["log"]
    palettes = {name: rgb(name, LEVELS) for name in ("magma", "viridis", "berlin")}
    palettes |= {"attention": rgb("magma", ATTENTION_LEVELS), "cut": two_ramps(cut_share(log))}
    loudest = int(seen.front["power"].sum(axis=1).argmax())  # frame
    return {
        "samples": len(seen.audio),
        "rate": melfront.SAMPLE_RATE,
        "hop": melfront.HOP_LENGTH,
        "nFft": melfront.N_FFT,
        "frames": config.n_frames,
        "start": loudest // CONV2_STRIDE * CONV2_STRIDE,  # the centre of a position
        "window": front_end.window().round(6).tolist(),
        "fields": [receptive_field(p, config.n_frames) for p in range(config.n_audio_ctx)],
        "corners": corners(config.n_mels).round(2).tolist(),
        "threshold": float(log.max()) - conventions.TRANSFORMERS.dynamic_range,
        "range": conventions.TRANSFORMERS.dynamic_range,
        "palettes": {name: palette.tobytes().hex() for name, palette in palettes.items()},
        "attention": attention_pictures(seen.attention, config),
        # As numbers too, because a few positions are far outside the picture's range.
        "norm": short(seen.norm),
        "sizes": {name: short(rows) for name, rows in seen.inside.sizes.items()},
        "open": short(seen.inside.open),
        "units": config.n_audio_mlp,
        "inside": {
            name: [signed(name, *block).source for block in blocks]
            for name, blocks in inside(seen).items()
        },
        "cosine": short(seen.cosine),
    }


def short(rows: Array) -> list[list[float]]:
    """Numbers of three digits."""
    return [[float(f"{x:.3g}") for x in row] for row in rows]


def envelope(audio: Array) -> dict[str, Any]:
    """The lowest and the highest sample of each stretch of the waveform (N,), and its peak."""
    step = -(-len(audio) // COLUMNS)
    starts = np.arange(0, len(audio), step)
    peak = max(float(np.abs(audio).max()), 1e-6)
    lowest, highest = (f.reduceat(audio, starts) / peak for f in (np.minimum, np.maximum))
    return {
        "starts": starts.tolist(),
        "lowest": lowest.round(3).tolist(),
        "highest": highest.round(3).tolist(),
        "peak": peak,
    }


def histogram(seen: Seen) -> dict[str, Any]:
    """How often each loudness occurs within the clip."""
    log = seen.front["log"][:, : max(int(seen.mask.sum()), 1)]
    counts, edges = np.histogram(log, bins=BARS, range=(log.min() - 0.1, log.max() + 0.1))
    return {"heights": (counts / counts.max()).tolist(), "edges": edges.tolist()}


def ticks(seen: Seen, config: EncoderConfig) -> dict[str, Any]:
    """The labels of the time axes in seconds, for the clip and for the whole window."""
    spans = {
        "clip": seen.in_view * POSITION_MS / 1000,
        "whole": config.n_frames / FRAMES_PER_SECOND,
    }
    result: dict[str, Any] = {"span": spans}
    for name, span in spans.items():
        step = next((step for step in TICK_STEPS if span / step <= 10), 10)
        result[name] = [round(i * step, 3) for i in range(int(span / step) + 1)]
    return result


def wav(audio: Array) -> str:
    """A clip as a data: URI of a 16-bit WAV: the page reads its samples."""
    integers = np.clip(np.round(audio * 2.0**15), -(2**15), 2**15 - 1).astype(np.int16)
    return sound(integers, "wav", format="WAV", subtype="PCM_16")


def sound(samples: Array, kind: str, **options: str) -> str:
    """Samples as a data: URI of an audio file."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, melfront.SAMPLE_RATE, **options)
    return f"data:audio/{kind};base64," + base64.b64encode(file.getvalue()).decode()
