"""melfront AUDIO: print, write and draw the log-mel features of audio files.

# W windows of 30 s  M mel bins
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

import melfront

from .audio import SAMPLE, clip_path, origin
from .command import (
    MAX_MELS,
    NO_CHECK_RANGE,
    Parser,
    exit_status,
    filled,
    is_n_mels,
    output_files,
    replacing,
)
from .features_file import rows, save_features

if TYPE_CHECKING:
    from . import Window
    from .plot import Overview

# `melfront encoder ...` is `main(["..."])` of that module; imported only then, torch takes seconds.
COMMANDS = {
    "encoder": ("melfront.encoder.__main__",),
    "parity": ("melfront.parity.__main__",),
    "benchmarks": ("melfront.benchmarks.__main__",),
    "kernel": ("melfront.benchmarks.__main__", "kernel"),
}
OUTPUTS = (".npy", ".npz", ".safetensors")
PLOTS = (".png",)
EPILOG = f"""\
A clip of up to 30 s is padded to 30 s and gives features (N, 3000). A longer
clip is cut into windows of 30 s, computed one by one and stacked: (windows, N,
3000).

OUT holds log_mel, float32, and attention_mask, int32, 1 where a frame holds
audio. Its metadata say what made them (in .npz a string of JSON, `metadata`);
a .npy holds the features only. If OUT is a folder, each clip is written into it
as NAME.safetensors, and its picture as NAME.png; several clips need a folder.
No file is left half written.

conventions:
  {", ".join(melfront.CONVENTIONS)}

commands, each with its own --help; ./encoder is a file of that name:
  melfront encoder [AUDIO]    through the encoder as well, to hidden states
  melfront parity COMMAND     check a port, find the first wrong stage, name the mistake
  melfront kernel SLOT FILE   prove a kernel right, then time it
  melfront benchmarks COMMAND

examples:
  melfront
  melfront sample -o speech.safetensors --plot speech.png
  melfront *.wav --n-mels 80 --convention openai-transcribe -o mels/
"""


def n_mels(text: str) -> int:
    if not is_n_mels(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of mel bins, 1 to {MAX_MELS}")
    return int(text)


def parser() -> Parser:
    result = Parser(
        prog="melfront",
        description="Whisper's log-mel features of audio files: what its encoder sees of a clip.",
        epilog=EPILOG,
    )
    add = result.add_argument
    add(
        "audio",
        nargs="*",
        metavar="AUDIO",
        type=filled,
        help="wav, flac, mp3, ogg ... of any sampling rate; default: sample, which is built in",
    )
    add("-o", dest="out", type=filled, help=f"file to write: {', '.join(OUTPUTS)}; or a folder")
    add(
        "--n-mels",
        type=n_mels,
        default=128,
        metavar="N",
        help="mel bins: 128 for large-v3 and turbo (default), 80 for all earlier sizes",
    )
    add(
        "--convention",
        choices=list(melfront.CONVENTIONS),
        default="transformers",
        metavar="NAME",
        help="whose features; default: transformers",
    )
    add("--no-check-range", **NO_CHECK_RANGE)
    plot_help = "draw the waveform over the features; or a folder"
    add("--plot", metavar="OUT.png", type=filled, help=plot_help)
    return result


class Features:
    """What the command says of a clip, gathered window by window."""

    def __init__(self, file: IO[bytes] | None, picture: Overview | None) -> None:
        self.file, self.picture = file, picture
        self.masks: list[NDArray[np.int32]] = []
        self.samples, self.sum, self.least, self.most = 0, 0.0, np.inf, -np.inf

    def add(self, window: Window) -> None:
        audio, x, mask = window
        if not self.masks:
            self.first, self.shape = audio, x.shape
        self.masks.append(mask)
        self.samples += len(audio)
        self.sum += float(x.sum(dtype=np.float64))
        self.least, self.most = min(self.least, x.min()), max(self.most, x.max())
        if self.file:
            self.file.write(x.astype("<f4", copy=False).data)
        if self.picture:
            self.picture.add(audio, x)

    def finish(self) -> None:
        """Of a clip beyond 30 s, the windows are stacked: (W, M, 3000) and (W, 3000)."""
        self.attention_mask = np.stack(self.masks)  # (W, 3000)
        if len(self.masks) == 1:
            self.attention_mask = self.masks[0]
        self.shape = (*self.attention_mask.shape[:-1], *self.shape)

    def summary(self, clip: Path) -> str:
        mask, mean = self.attention_mask, self.sum / math.prod(self.shape)
        return (
            f"{clip}: {self.samples / melfront.SAMPLE_RATE:.2f} s, "
            f"{mask.sum()} of {mask.size} frames hold audio, features {self.shape} float32, "
            f"min {self.least:.4f} mean {mean:.4f} max {self.most:.4f}"
        )


def made_by(options: argparse.Namespace) -> dict[str, str]:
    """What computed a file's features, as strings, which is all that safetensors stores."""
    versions = {"melfront": melfront.__version__, "python": sys.version.split()[0]}
    versions |= {name: version(name) for name in ("numpy", "soundfile", "soxr")}
    return {
        "n_mels": str(options.n_mels),
        "convention": options.convention,
        "versions": json.dumps(versions),
    }


def run(options: argparse.Namespace) -> None:
    clips = [clip_path(name) for name in options.audio] or [SAMPLE]
    for clip in clips:
        if not clip.exists():
            raise FileNotFoundError(f"{clip}: no such file; name an audio file")
    out, plot_out = options.out, options.plot
    outs = output_files(clips, Path(out), f"-o {out}", OUTPUTS) if out else [None] * len(clips)
    plots = (
        output_files(clips, Path(plot_out), f"--plot {plot_out}", PLOTS)
        if plot_out
        else [None] * len(clips)
    )
    for clip, file, picture in zip(clips, outs, plots, strict=True):
        line = process(clip, file, picture, options)
        written = " and ".join(str(path) for path in (file, picture) if path)
        print(f"{line}, written to {written}" if written else line, flush=True)


def process(
    clip: Path, out: Path | None, plot_out: Path | None, options: argparse.Namespace
) -> str:
    """Compute the features of one clip, write and draw them, and return what to print."""
    if plot_out:
        from . import plot
    with rows(out) as file:
        features = Features(file, plot.Overview() if plot_out else None)
        for window in melfront.stream(
            clip,
            n_mels=options.n_mels,
            convention=options.convention,
            check_range=options.check_range,
            compiled=False,
        ):
            features.add(window)
        features.finish()
        if out and file:
            about = origin(
                clip, features.first, melfront.N_SAMPLES, options.check_range, features.samples
            )
            mask, shape = features.attention_mask, features.shape
            save_features(out, file, shape, mask, about | made_by(options))
    if plot_out and features.picture:
        figure = plot.figure(features.picture, clip.name)
        with replacing(plot_out) as temporary:
            figure.savefig(temporary, format="png")
    return features.summary(clip)


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, 2 after one line on stderr that says what was given and what to do, or 130."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in COMMANDS:
        module, *first = COMMANDS[words[0]]
        # The import takes a moment, in which the user may press Ctrl-C.
        return exit_status("melfront", lambda: import_module(module).main([*first, *words[1:]]))
    return exit_status("melfront", lambda: run(parser().parse_args(words)))


if __name__ == "__main__":
    sys.exit(main())
