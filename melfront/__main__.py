"""melfront AUDIO: print, write and draw the log-mel features of audio files.

# n windows of 30 s  M mel bins
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

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


def compute(
    audio: NDArray[np.float32], n_mels: int, convention: str, check_range: bool
) -> dict[str, Any]:
    """log_mel (M, 3000) and attention_mask (3000,) of a clip (N,).

    Of a clip beyond 30 s window by window, (n, M, 3000) and (n, 3000).
    """
    options: Any = {"n_mels": n_mels, "convention": convention, "check_range": check_range}
    windows = [
        melfront.log_mel(chunk, return_mask=True, compiled=False, **options)
        for chunk in melfront.chunks(audio, check_range=check_range)
    ]
    log_mel, mask = windows[0]
    if len(windows) > 1:
        log_mel = np.stack([window for window, _ in windows])  # (n, M, 3000)
        mask = np.stack([mask for _, mask in windows])  # (n, 3000)
    return {"log_mel": log_mel, "attention_mask": mask}


def save_features(path: Path, features: dict[str, Any], about: dict[str, str]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        if path.suffix == ".npy":
            np.save(file, features["log_mel"])
        elif path.suffix == ".npz":
            np.savez(file, metadata=np.array(json.dumps(about)), **features)
        else:
            from safetensors.numpy import save

            file.write(save(features, metadata=about))


def summary(clip: Path, audio: NDArray[np.float32], features: dict[str, Any]) -> str:
    x, mask = features.values()
    return (
        f"{clip}: {len(audio) / melfront.SAMPLE_RATE:.2f} s, "
        f"{mask.sum()} of {mask.size} frames hold audio, "
        f"features {x.shape} {x.dtype}, "
        f"min {x.min():.4f} mean {x.mean(dtype=np.float64):.4f} max {x.max():.4f}"
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
    outs = out and output_files(clips, Path(out), f"-o {out}", OUTPUTS)
    plots = plot_out and output_files(clips, Path(plot_out), f"--plot {plot_out}", PLOTS)
    for i, clip in enumerate(clips):
        audio = melfront.load_audio(clip, options.check_range)
        features = compute(audio, options.n_mels, options.convention, options.check_range)
        written = []
        if outs:
            of_clip = origin(clip, audio, melfront.N_SAMPLES, options.check_range)
            save_features(outs[i], features, of_clip | made_by(options))
            written.append(str(outs[i]))
        if plots:
            from . import plot

            figure = plot.figure(audio, features["log_mel"], clip.name)
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
        # The import takes a moment, in which the user may press Ctrl-C.
        return exit_status("melfront", lambda: import_module(module).main([*first, *words[1:]]))
    return exit_status("melfront", lambda: run(parser().parse_args(words)))


if __name__ == "__main__":
    sys.exit(main())
