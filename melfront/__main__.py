"""melfront AUDIO: print, write and draw the log-mel features of audio files.

# n windows of 30 s  M mel bins
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import melfront

from .audio import SAMPLE, clip_path, digest
from .command import NO_CHECK_RANGE, Parser, exit_status, filled, replacing

# `melfront encoder ...` is `main(["..."])` of that module; imported only then, torch takes seconds.
COMMANDS = {
    "encoder": ("melfront.encoder.__main__",),
    "parity": ("melfront.parity.__main__",),
    "benchmarks": ("melfront.benchmarks.__main__",),
    "kernel": ("melfront.benchmarks.__main__", "kernel"),
}
OUTPUTS = (".npy", ".npz", ".safetensors")
PLOTS = (".png",)
# More than a spectrum of 201 frequencies can fill, with room to experiment.
MAX_MELS = 1000
PROG = "melfront"
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
  {PROG}
  {PROG} sample -o speech.safetensors --plot speech.png
  {PROG} *.wav --n-mels 80 --convention openai-transcribe -o mels/
"""


class Features(NamedTuple):
    """Of one clip: (M, 3000) and (3000,), or (n, M, 3000) and (n, 3000) beyond 30 s."""

    log_mel: NDArray[np.float32]
    attention_mask: NDArray[np.int32]


def n_mels(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_MELS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of mel bins, 1 to {MAX_MELS}")
    return int(text)


def parser() -> Parser:
    result = Parser(
        prog=PROG,
        description="Whisper's log-mel features of audio files: what its encoder sees of a clip.",
        epilog=EPILOG,
    )
    add_arguments(result)
    return result


def add_arguments(result: Parser) -> None:
    add = result.add_argument
    add(
        "audio",
        nargs="*",
        metavar="AUDIO",
        type=filled,
        help="wav, flac, mp3, ogg ... of any sampling rate; default: sample, which is built in",
    )
    add(
        "-o",
        dest="out",
        metavar="OUT",
        type=filled,
        help=f"file to write: {', '.join(OUTPUTS)}; or a folder",
    )
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
    add(
        "--plot",
        metavar="OUT.png",
        type=filled,
        help="draw the waveform over the features; or a folder",
    )


def targets(out: str, clips: list[Path], endings: tuple[str, ...], default: str) -> list[Path]:
    """The file for each clip's result. Raises ValueError where it cannot be written."""
    into = Path(out)
    if into.is_dir() or out.endswith(("/", os.sep)):
        paths = [into / f"{clip.stem}{default}" for clip in clips]
        folder = into
    else:
        paths, folder = [into], into.parent
        if into.suffix not in endings:
            raise ValueError(f"{out}: unknown ending; expected {', '.join(endings)}, or a folder")
        if len(clips) > 1:
            raise ValueError(
                f"{out}: one file cannot hold {len(clips)} clips; name a folder that exists"
            )
    if not folder.is_dir():
        raise ValueError(f"{out}: the folder {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{out}: the folder {folder} cannot be written to; choose another")
    names = [path.name for path in paths]
    for path in paths:
        if names.count(path.name) > 1:
            raise ValueError(f"{out}: two of the clips would be written as {path.name}; rename one")
        if path.is_dir():
            raise ValueError(f"{path} is a folder; choose another name")
    return paths


def compute(
    audio: NDArray[np.float32], n_mels: int, convention: str, check_range: bool = True
) -> Features:
    """Features and mask of a clip (N,) of any length; beyond 30 s, window by window."""
    options: Any = {"n_mels": n_mels, "convention": convention, "check_range": check_range}
    windows = [
        Features(*melfront.log_mel(chunk, return_mask=True, **options))
        for chunk in melfront.chunks(audio, check_range=check_range)
    ]
    if len(windows) == 1:
        return windows[0]
    log_mel = np.stack([window.log_mel for window in windows])  # (n, M, 3000)
    attention_mask = np.stack([window.attention_mask for window in windows])  # (n, 3000)
    return Features(log_mel, attention_mask)


def metadata(
    clip: Path, audio: NDArray[np.float32], n_mels: int, convention: str
) -> dict[str, str]:
    """Where a file's features come from, as strings, which is all that safetensors stores."""
    packages = ("numpy", "soundfile", "soxr")
    versions = {"melfront": melfront.__version__, "python": sys.version.split()[0]}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return {  # parity finds the clip by the first and recognises it by the second
        "clip": "sample" if clip == SAMPLE else str(clip),
        "clip_sha256": digest(audio[: melfront.N_SAMPLES]),
        "samples": str(len(audio)),
        "n_mels": str(n_mels),
        "convention": convention,
        "versions": json.dumps(versions),
    }


def save_features(path: Path, features: Features, about: dict[str, str]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        if path.suffix == ".npy":
            np.save(file, features.log_mel)
        elif path.suffix == ".npz":
            np.savez(file, metadata=np.array(json.dumps(about)), **features._asdict())
        else:
            from safetensors.numpy import save

            file.write(save(features._asdict(), metadata=about))


def summary(clip: Path, audio: NDArray[np.float32], features: Features) -> str:
    x, mask = features
    return (
        f"{clip}: {len(audio) / melfront.SAMPLE_RATE:.2f} s, "
        f"{mask.sum()} of {mask.size} frames hold audio, "
        f"features {x.shape} {x.dtype}, "
        f"min {x.min():.4f} mean {x.mean(dtype=np.float64):.4f} max {x.max():.4f}"
    )


def run(options: argparse.Namespace) -> None:
    clips = [clip_path(name) for name in options.audio] or [SAMPLE]
    for clip in clips:
        if not clip.exists():
            raise FileNotFoundError(f"{clip}: no such file; name an audio file")
    outs = options.out and targets(options.out, clips, OUTPUTS, ".safetensors")
    plots = options.plot and targets(options.plot, clips, PLOTS, ".png")
    for i, clip in enumerate(clips):
        audio = melfront.load_audio(clip, options.check_range)
        features = compute(audio, options.n_mels, options.convention, options.check_range)
        written = []
        if outs:
            about = metadata(clip, audio, options.n_mels, options.convention)
            about |= {} if options.check_range else {"check_range": "False"}
            save_features(outs[i], features, about)
            written.append(str(outs[i]))
        if plots:
            from . import plot

            figure = plot.figure(audio, features.log_mel, clip.name)
            with replacing(plots[i]) as temporary:
                figure.savefig(temporary, format="png")
            written.append(str(plots[i]))
        line = summary(clip, audio, features)
        print(f"{line}, written to {' and '.join(written)}" if written else line, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, 2 after one line on stderr that says what was given and what to do, or 130."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in COMMANDS:
        module, *first = COMMANDS[words[0]]
        status: int = import_module(module).main([*first, *words[1:]])
        return status
    return exit_status(PROG, lambda: run(parser().parse_args(words)))


if __name__ == "__main__":
    sys.exit(main())
