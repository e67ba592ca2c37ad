"""`melfront encoder`: run audio files through the front end and the encoder.

Mistakes in the arguments and the audio are reported before torch is imported.

    # W windows of 30 s  M mel bins  F frames = 3000  T positions = 1500  S state
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]  # huggingface_hub needs it: it is there

import melfront
from melfront.audio import SAMPLE, clip_path, origin
from melfront.command import (
    NO_CHECK_RANGE,
    PROGRESS,
    Parser,
    UsageError,
    check_output,
    exit_status,
    filled,
    output_files,
    replacing,
)

from .config import SIZES

if TYPE_CHECKING:
    from torch import Tensor

    from . import WhisperEncoder

BUILT_IN = "formula:tiny/128"  # tiny, but 128 bins, weights from a formula: `built_in.py`
DESCRIPTION = """\
Run audio through Whisper's front end and encoder. One clip is shown stage by
stage; several clips get one line each. With no arguments, a built-in clip and
built-in weights are used, and nothing is downloaded."""
EPILOG = """\
example:
  melfront encoder sample --model openai/whisper-large-v3 -o speech.npz
  melfront encoder sample --model openai/whisper-tiny --report tour.html

The file OUT holds last_hidden_state and hidden_states.0 .. L (T, S), log_mel
(M, F) and attention_mask (F,); its metadata name the clip, the model and the
versions (in .npz a string of JSON, `metadata`). A clip over 30 s is cut into W
windows of 30 s, and each tensor gets a leading axis for them: (W, T, S). For
large-v3 in float32 a window takes 250 MB. If OUT is a folder, each clip becomes
OUT/NAME.safetensors; several clips need a folder.

`melfront encoder export` writes ONNX or torch.export; ./export is a file of
that name."""

# The step of each axis. A frame starts every hop; conv2, with stride 2, merges two into a position.
FRAME, POSITION = "10 ms", "20 ms"
STEPS = {
    "padded": "0.0625 ms",
    **dict.fromkeys(("frames", "windowed"), f"{FRAME}, 0.0625 ms"),
    **dict.fromkeys(("spectrum", "power"), f"{FRAME}, 40 Hz"),
    **dict.fromkeys(("mel", "log", "clamped", "features"), f"mel bin, {FRAME}"),
    **dict.fromkeys(("conv1", "gelu1"), f"channel, {FRAME}"),
    **dict.fromkeys(("conv2", "gelu2"), f"channel, {POSITION}"),
}
# A table of 80 columns, to fit a terminal.
HEADING = f"{'stage':22}{'shape':13}{'step of each axis':17}{'min':>9}{'mean':>10}{'max':>9}"
LEGEND = f"1 frame = 160 samples = {FRAME}, 1 position = 320 samples = {POSITION}"


def path(text: str) -> Path:
    return Path(filled(text))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="melfront encoder", description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add("audio", nargs="*", metavar="AUDIO", type=filled, help="wav, flac ...; default: the sample")
    add(
        "--model",
        metavar="NAME_OR_PATH",
        type=filled,
        default=BUILT_IN,
        help="folder, file or Hub name, or formula:SIZE, no download; default: %(default)s",
    )
    add("--device", default="cpu", help="such as cpu, cuda, cuda:1, mps; default: cpu")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    add("-o", dest="out", metavar="OUT", type=path, help="a .safetensors or .npz file, or a folder")
    add("--no-check-range", **NO_CHECK_RANGE)
    add("--report", metavar="OUT.html", type=path, help="a page that shows the clip stage by stage")
    return parser.parse_args(argv)


def check_report(clips: list[Path], file: Path) -> None:
    """Raises UsageError for several clips, and for a file that is not a page."""
    if len(clips) > 1:
        raise UsageError(f"--report {file} of {len(clips)} clips: it shows one; give one clip")
    if file.suffix not in (".html", ".htm"):
        raise UsageError(f"--report {file}: expected a .html file")
    check_output(file, f"--report {file}")


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


def row(stage: str, x: Any) -> str:
    """A line of the table, for an array or tensor without batch axis."""
    steps = STEPS.get(stage, f"{POSITION}, channel")
    if isinstance(x, np.ndarray) and np.iscomplexobj(x):  # a tensor may be on a GPU
        steps, x = f"{steps}, |x|", np.abs(x)
    shape = str(tuple(x.shape))
    return f"{stage:22}{shape:13}{steps:17}{x.min():9.3g}{x.mean():10.3g}{x.max():9.3g}"


def stem_rows(model: WhisperEncoder, mel: np.ndarray[Any, Any]) -> list[str]:
    """The stages before the first block, of features (M, F)."""
    import torch

    rows = []

    def tap(stage: str, x: Tensor) -> Tensor:
        rows.append(row(stage, x[0].float()))
        return x

    with torch.inference_mode():
        model.stem(model.check(mel, strict_length=True), tap)
    return rows


def process(
    model: WhisperEncoder, audio: np.ndarray[Any, Any], keep: bool, name: str, check_range: bool
) -> tuple[list[str], dict[str, Tensor]]:
    """The table of a clip's first window, and the tensors of all its windows by name.

    audio (N,), 16 kHz; keep: also return every hidden state; name: for the progress bar.
    """
    import torch

    n_layer = model.config.n_audio_layer
    seconds = model.config.n_frames * melfront.HOP_LENGTH / melfront.SAMPLE_RATE
    windows = list(melfront.chunks(audio, seconds, check_range))
    options: Any = {"n_mels": model.config.n_mels, "pad_to": seconds, "check_range": check_range}
    given: Any = options | {"return_mask": True, "compiled": False}
    mel, mask = melfront.log_mel(windows, **given)  # mel (W, M, F)
    front_end = melfront.oracle.trace(windows[0], **options)
    rows = [HEADING, *(row(stage, x) for stage, x in front_end.items()), *stem_rows(model, mel[0])]
    n_rows = len(rows)
    blocks = tqdm(desc=name, unit="block", total=len(mel) * n_layer, **PROGRESS)

    # A hook, not a tap: for a tap each block computes its scores, which takes half its time again.
    def after(_block: Any, _inputs: Any, output: Any) -> None:
        blocks.update()
        if (i := len(rows) - n_rows) < n_layer:
            rows.append(row(f"block.{i}.mlp_residual", output[0].float()))

    tensors = {"log_mel": torch.from_numpy(mel), "attention_mask": torch.from_numpy(mask)}
    with ExitStack() as hooks, torch.inference_mode(), blocks:
        for block in model.blocks:
            hooks.enter_context(block.register_forward_hook(after))
        for w, window in enumerate(mel):
            last, states = model(window, output_hidden_states=keep)
            named = [(f"hidden_states.{i}", x) for i, x in enumerate(states or ())]
            for key, x in [("last_hidden_state", last), *named]:
                if w == 0:
                    tensors[key] = torch.empty(len(mel), *x.shape[1:], dtype=x.dtype)
                tensors[key][w] = x[0]
    rows.append(row("ln_post", tensors["last_hidden_state"][0].float()))
    return rows, {key: x[0] if len(mel) == 1 else x for key, x in tensors.items()}


def save(file: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """Raises UsageError where the file cannot be written, such as on a full disk."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with replacing(file) as temporary:
            if file.suffix == ".npz":
                arrays: dict[str, Any] = {name: x.numpy() for name, x in tensors.items()}
                with temporary.open("wb") as target:
                    np.savez(target, metadata=np.array(json.dumps(about)), **arrays)
            else:
                save_file(tensors, temporary, metadata={"format": "pt", **about})
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{file} could not be written: {error}") from error


def run(args: argparse.Namespace) -> None:
    clips, name = [clip_path(clip) for clip in args.audio] or [SAMPLE], args.model
    check_model(name)  # before torch is imported
    out = args.out
    files = output_files(clips, out, f"-o {out}", (".npz", ".safetensors")) if out else []
    if args.dtype == "bfloat16" and out and out.suffix == ".npz":
        raise UsageError(f"-o {out}: npz cannot hold bfloat16; give a .safetensors file")
    if args.report:
        check_report(clips, args.report)
    audios = [melfront.load_audio(clip, args.check_range) for clip in clips]
    model = load_model(name, args.device, args.dtype)
    import torch  # load_model has imported it

    about = {"model": name, "dtype": args.dtype, "device": args.device}
    about |= {"melfront": melfront.__version__, "torch": torch.__version__, "numpy": np.__version__}
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    for i, (clip, audio) in enumerate(zip(clips, audios, strict=True)):
        rows, tensors = process(model, audio, bool(files), clip.name, args.check_range)
        frames, shape = int(tensors["attention_mask"].sum()), tensors["last_hidden_state"].shape
        print(f"{clip}: {len(audio)} samples, {frames} frames; hidden states {tuple(shape)}")
        if len(clips) == 1:
            print("", *rows, "", LEGEND, sep="\n")
        if files:
            n_samples = model.config.n_frames * melfront.HOP_LENGTH  # of a window
            of_clip = origin(clip, audio, n_samples, args.check_range)
            save(files[i], tensors, of_clip | about)
            print(f"written to {files[i]}: {', '.join(tensors)}")
    if args.report:
        from . import report

        report.write(args.report, clips[0].name, audios[0], model, about)
        print(f"written to {args.report}: open it in a browser")
    elif not files:
        print("nothing was written; -o OUT.safetensors saves the hidden states")


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["export"]:
        from .export import cli

        return exit_status(cli.PROG, lambda: cli.run(cli.parse(words[1:], BUILT_IN), load_model))
    return exit_status("melfront encoder", lambda: run(parse(words)))


if __name__ == "__main__":
    sys.exit(main())
