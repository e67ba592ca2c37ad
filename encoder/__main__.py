"""`melfront encoder`: run audio files through the front end and the encoder.

Mistakes in the arguments and the audio are reported before torch is imported.

    # W windows of 30 s  M mel bins  F frames = 3000  T positions = 1500  S state
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]  # huggingface_hub needs it: it is there

import melfront
from melfront.command import (
    NO_CHECK_RANGE,
    PROGRESS,
    Parser,
    UsageError,
    check_output,
    exit_status,
    filled,
)

from .command.clips import Job, jobs_of
from .command.corpus import encode_all
from .command.reading import counted
from .command.words import Word
from .command.words import read as read_words
from .command.writing import weights_digest
from .config import SIZES

if TYPE_CHECKING:
    from . import WhisperEncoder

BUILT_IN = "formula:tiny/128"  # tiny, but 128 bins, weights from a formula: `built_in.py`
DESCRIPTION = """\
Run audio through Whisper's front end and encoder. One clip is shown stage by
stage; several clips get one line each. With no arguments, a built-in clip and
built-in weights are used, and nothing is downloaded."""
EPILOG = """\
examples:
  melfront encoder sample --model openai/whisper-large-v3 -o speech.npz
  melfront encoder sample --model openai/whisper-tiny --report tour.html
  melfront encoder talk.wav --report tour.html --words talk.TextGrid
  melfront encoder recordings/ --no-hidden-states -o states/

The file OUT holds last_hidden_state and hidden_states.0 .. L (T, S), log_mel
(M, F) and attention_mask (F,); its metadata name the clip, the model and the
versions (in .npz a string of JSON, `metadata`). A clip over 30 s is cut into W
windows of 30 s, and each tensor gets a leading axis for them: (W, T, S). For
large-v3 in float32 a window takes 250 MB, 9 MB without hidden states. Windows
are read, encoded and written one by one, so a clip may be hours long.

Several clips need a folder: each becomes OUT/NAME.safetensors, and the clip
FOLDER/a/b.wav becomes OUT/a/b.safetensors. OUT is made if it is missing. A clip
that cannot be read does not stop the others; it is named at the end, and the
exit status is 2. Run the same command again after it was stopped, and it goes
on: a whole file in OUT from the same audio, weights, options and versions is
kept, any other is replaced.

`melfront encoder export` writes ONNX or torch.export; ./export is a file of
that name."""


def path(text: str) -> Path:
    return Path(filled(text))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="melfront encoder", description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add(
        "audio",
        nargs="*",
        metavar="AUDIO",
        type=filled,
        help="wav, flac ..., or a folder of them and of folders; default: the sample",
    )
    add(
        "--model",
        metavar="NAME_OR_PATH",
        type=filled,
        default=BUILT_IN,
        help="folder, file or Hub name, or formula:SIZE, no download; default: %(default)s",
    )
    add("--device", default="cpu", help="such as cpu, cuda, cuda:1, mps; default: cpu")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    add(
        "-o",
        dest="out",
        metavar="OUT",
        type=filled,
        help="a .safetensors, an .npz, or a folder",
    )
    add(
        "--no-hidden-states",
        dest="hidden_states",
        action="store_false",
        help="write last_hidden_state without hidden_states.0 .. L",
    )
    add("--no-check-range", **NO_CHECK_RANGE)
    add("--report", metavar="OUT.html", type=path, help="a page that shows the clip stage by stage")
    add("--words", metavar="FILE", type=path, help="words with times, to be shown in the report")
    return parser.parse_args(argv)


def check_report(jobs: list[Job], file: Path) -> None:
    """Raises UsageError for several clips, and for a file that is not a page."""
    if len(jobs) > 1:
        raise UsageError(f"--report {file} of {len(jobs)} clips: it shows one; give one clip")
    if file.suffix not in (".html", ".htm"):
        raise UsageError(f"--report {file}: expected a .html file")
    check_output(file, f"--report {file}")


def spoken(file: Path, report: Path | None) -> list[Word]:
    """The words of a file, for the report. Raises UsageError."""
    if not report:
        raise UsageError(f"--words {file}: they are shown in a report; give --report OUT.html too")
    try:
        return read_words(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--words {file}: {reason}") from None


def check_model(name: str) -> None:
    """Raises UsageError for what cannot be the name of a model."""
    built_in = name.startswith("formula:")
    size = name.removeprefix("whisper-") in SIZES
    if not (built_in or size or "/" in name or os.path.exists(name)):
        raise UsageError(f"--model {name}: no such file or folder, nor a size such as tiny")


def load_model(name: str, device: str, dtype: str) -> WhisperEncoder:
    """The encoder of this name on this device. Raises UsageError."""
    check_model(name)
    import torch

    from . import CheckpointError, WhisperEncoder

    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # each kind of device raises its own type
        reason = str(error).partition("\n")[0]
        raise UsageError(f"--device {device}: {reason}; try --device cpu") from error
    # TF32 keeps only 10 bits of each factor, an error of 1e-3.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    options: dict[str, Any] = {"device": device, "dtype": getattr(torch, dtype)}
    if not sys.stderr.isatty():
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    try:
        with tqdm(desc=name, unit="tensor", **PROGRESS) as tensors:
            options["progress"] = lambda _done, _total: tensors.update()
            return WhisperEncoder.from_pretrained(name, **options)
    except CheckpointError as error:
        raise UsageError(f"--model {name}: {error}") from error


def run(args: argparse.Namespace) -> None:
    name, out = args.model, args.out
    check_model(name)  # before torch is imported
    jobs = jobs_of(args.audio, out)
    if args.dtype == "bfloat16" and out and out.endswith(".npz"):
        raise UsageError(f"-o {out}: npz cannot hold bfloat16; give a .safetensors file")
    if args.report:
        check_report(jobs, args.report)
    words = spoken(args.words, args.report) if args.words else []
    if len(jobs) == 1:  # with no other clip to encode, what is wrong with it can be said at once
        *_, n_samples = counted(jobs[0].clip, args.check_range)
        jobs = [jobs[0]._replace(n_samples=n_samples)]
    model = load_model(name, args.device, args.dtype)
    import torch  # load_model has imported it

    about = {"model": name, "dtype": args.dtype, "device": args.device}
    about |= {"melfront": melfront.__version__, "torch": torch.__version__, "numpy": np.__version__}
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    identity = {"weights_sha256": weights_digest(model)} if out else {}
    encode_all(model, jobs, about | identity, args.check_range, args.hidden_states)
    if args.report:
        # Upwards, in this command alone: the page shows what a port may do wrong.
        from melfront.parity.pages.what_if import of_clip

        from . import report

        audio = melfront.load_audio(jobs[0].clip, args.check_range)
        report.write(args.report, jobs[0].clip.name, audio, model, about, words, of_clip)
        print(f"written to {args.report}: open it in a browser")
    elif not out:
        print("nothing was written; -o OUT.safetensors saves the hidden states")


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["export"]:
        from .export import cli

        return exit_status(cli.PROG, lambda: cli.run(cli.parse(words[1:], BUILT_IN), load_model))
    return exit_status("melfront encoder", lambda: run(parse(words)))


if __name__ == "__main__":
    sys.exit(main())
