"""Draws README's picture: one clip's way from the waveform to the hidden states, on one time axis.

python -m reference_data.make_picture --model openai/whisper-tiny.en -o reference_data/way.png
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

import melfront
from melfront.command import Parser, exit_status, replacing
from melfront.encoder import WhisperEncoder, trace
from melfront.plot import envelope

COMMAND = "python -m melfront.reference_data.make_picture"
INK = "#737b84"  # readable on GitHub's white and on its black; the background is transparent
BLUE = "#4c8dd6"
PADDING = 0.9  # seconds of it that show
ROWS = 96  # channels drawn, of all that there are


def contrast(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Channels over time (S, T), to be looked at: as loud as each other, like beside like.

    Every channel is brought to mean 0 and variance 1. A channel's place is its angle in the plane
    of the two strongest patterns (principal components): neighbours rise and fall together.
    """
    deviation = x - x.mean(axis=1, keepdims=True)
    deviation /= deviation.std(axis=1, keepdims=True) + 1e-6
    patterns = np.linalg.svd(deviation, full_matrices=False)[0]  # (S, S)
    order = np.argsort(np.arctan2(patterns[:, 1], patterns[:, 0]))
    return np.clip(deviation[order][:: max(1, len(x) // ROWS)], -2.5, 2.5)


def draw(audio: NDArray[np.float32], model: WhisperEncoder) -> Figure:
    """The picture of a clip (N,) at 16 kHz, of at most 30 s."""
    mel = melfront.log_mel(audio, n_mels=model.config.n_mels)
    stages = {name: x[0].numpy() for name, x in trace(model, torch.from_numpy(mel)).items()}
    n_layer = model.config.n_audio_layer
    pictures = [  # title, tensor, the same with time along the last axis, milliseconds a step
        ("log-mel", mel, mel, 10),
        ("after conv1, stride 1", stages["gelu1"], stages["gelu1"], 10),
        ("after conv2, stride 2", stages["gelu2"], stages["gelu2"], 20),
        (f"after {n_layer} blocks, normed", stages["ln_post"], stages["ln_post"].T, 20),
    ]
    seconds = len(audio) / melfront.SAMPLE_RATE
    shown = min(seconds + PADDING, melfront.CHUNK_LENGTH)

    figure = Figure(figsize=(9, 6.6), dpi=120, layout="constrained")
    axes = figure.subplots(1 + len(pictures), 1, sharex=True, height_ratios=(1, 2, 2, 2, 2))
    time, lowest, highest = envelope(audio)
    axes[0].fill_between(time, lowest, highest, step="post", linewidth=0.5, color=BLUE)
    axes[0].set_ylabel("amplitude")
    titles = [f"waveform  ({len(audio)},)   0.0625 ms a step"]
    for below, (title, tensor, x, step) in zip(axes[1:], pictures, strict=True):
        titles.append(f"{title}  {tensor.shape}   {step} ms a step")
        x = x[:, : round(shown * 1000 / step)]
        half = step / 2000  # step t is centred on t * step milliseconds
        below.imshow(
            x if title == "log-mel" else contrast(x),
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            cmap="magma",
            extent=(-half, x.shape[1] * step / 1000 - half, 0, len(x)),
        )
        below.set_ylabel("mel bins" if title == "log-mel" else "channels")
        if title != "log-mel":
            below.set_yticks([])  # they are in another order
    for each, title in zip(axes, titles, strict=True):
        each.set_facecolor("none")
        each.set_title(title, loc="left", color=INK, fontsize=10)
        each.axvline(seconds, color=BLUE, linestyle="--", linewidth=1)
        each.tick_params(colors=INK, labelsize=8, bottom=each is axes[-1])
        each.yaxis.label.set(color=INK, fontsize=9)
        each.spines[:].set_visible(False)
    axes[-1].set(xlim=(0, shown))
    axes[-1].set_xlabel("seconds; from the dashed line on it is padding, up to 30 s", color=INK)
    return figure


def run(arguments: list[str] | None) -> None:
    parser = Parser(
        prog=COMMAND,
        description="Draw a clip's way through the front end and the encoder.",
        epilog=f"example:\n  {COMMAND} --model openai/whisper-tiny.en",
    )
    add = parser.add_argument
    add("audio", nargs="?", default="sample", help="default: the sample clip")
    add(
        "--model",
        default="formula:tiny",
        help="folder, file, Hub name; default: formula:tiny, no download",
    )
    add("-o", dest="out", default="way.png", help="default: way.png")
    options = parser.parse_args(arguments)
    picture = io.BytesIO()
    audio = melfront.load_audio(options.audio)
    model = WhisperEncoder.from_pretrained(options.model)
    draw(audio, model).savefig(picture, transparent=True)
    # 64 colours are enough for the eye, and a quarter of the bytes.
    small = Image.open(picture).quantize(64, method=Image.Quantize.FASTOCTREE)
    with replacing(Path(options.out)) as temporary:
        small.save(temporary, format="png", optimize=True)
    print(f"written to {options.out}")


def main(arguments: list[str] | None = None) -> int:
    return exit_status(COMMAND, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
