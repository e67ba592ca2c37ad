"""`melfront encoder export`: the front end, the encoder or both as one file for other runtimes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import melfront
from melfront.command import MAX_MELS, Parser, UsageError, check_output, filled, is_n_mels

if TYPE_CHECKING:
    from ..model import WhisperEncoder

PROG = "melfront encoder export"
ENDINGS = {"onnx": ".onnx", "torch-export": ".pt2"}
PARTS = ("both", "encoder", "front-end")
DESCRIPTION = """\
Write the front end and the encoder as one graph, which onnxruntime, OpenVINO
and others run without melfront. The batch may have any size; clips are 30 s."""
EPILOG = f"""\
both        audio (batch, 480000) float32 -> last_hidden_state, log_mel
encoder     input_features (batch, M, 3000) -> last_hidden_state
front-end   audio (batch, 480000) float32 -> log_mel (batch, M, 3000) float32

Audio is 16 kHz in [-1, 1], padded with zeros to 30 s. Outputs have the names
that `melfront parity compare` knows. --dtype is that of the encoder: the front
end stays float32, because 1e-10, its least power, is 0 in float16. Weights over
2 GB go to OUT.onnx.data, which has to stay beside OUT.onnx.

example:
  {PROG} --model openai/whisper-tiny -o tiny.onnx"""


def parse(argv: list[str], default_model: str) -> argparse.Namespace:
    parser = Parser(prog=PROG, description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add("-o", dest="out", metavar="OUT", type=filled, required=True, help="a .onnx or .pt2 file")
    add("--format", choices=[*ENDINGS], help="default: by the ending of OUT")
    add("--part", choices=PARTS, default="both", help="what the file holds; default: both")
    add(
        "--model",
        metavar="NAME_OR_PATH",
        type=filled,
        help=f"folder, file or Hub name, or formula:SIZE; default: {default_model}",
    )
    add("--dtype", choices=("float32", "float16"), default="float32")
    add("--hidden-states", action="store_true", help="also give hidden_states.0, .1, ...")
    add("--n-mels", metavar="N", help="mel bins of --part front-end; default: 128")
    args = parser.parse_args(argv)
    if args.part == "front-end":
        check_front_end(args)
    elif args.n_mels is not None:
        raise UsageError(f"--n-mels {args.n_mels}: the model has its own number; leave it out")
    args.model = args.model or default_model
    return args


def check_front_end(args: argparse.Namespace) -> None:
    if args.model or args.hidden_states:
        option = f"--model {args.model}" if args.model else "--hidden-states"
        raise UsageError(f"{option}: --part front-end has no encoder; leave it out")
    if args.dtype != "float32":
        raise UsageError(
            f"--dtype {args.dtype}: the front end is float32, because 1e-10, its least power, is 0 "
            "in float16; leave it out"
        )
    args.n_mels = args.n_mels or "128"
    if not is_n_mels(args.n_mels):
        raise UsageError(f"--n-mels {args.n_mels}: expected a number of mel bins, 1 to {MAX_MELS}")


def format_of(out: Path, given: str | None) -> str:
    """The format of a file by its ending. Raises UsageError, also for a file that cannot be."""
    fits = {name: ending for name, ending in ENDINGS.items() if given in (None, name)}
    name = next((name for name, ending in fits.items() if out.suffix == ending), None)
    if name is None:
        raise UsageError(f"-o {out}: expected a file that ends in {' or '.join(fits.values())}")
    if name == "onnx" and not find_spec("onnxscript"):
        raise UsageError("ONNX needs the package onnxscript: pip install 'melfront[export]'")
    check_output(out, f"-o {out}")
    return name


def run(args: argparse.Namespace, load_model: Callable[[str, str, str], WhisperEncoder]) -> None:
    out = Path(args.out)
    kind = format_of(out, args.format)
    alone = args.part == "front-end"
    model = None if alone else load_model(args.model, "cpu", args.dtype).requires_grad_(False)
    import torch

    from .graph import FromAudio, FromFeatures, capture, outputs
    from .write import write_onnx, write_torch_export

    if model is not None and args.part == "encoder":
        graph: FromAudio | FromFeatures = FromFeatures(model, args.hidden_states)
    else:
        n_mels = model.config.n_mels if model else int(args.n_mels)
        graph = FromAudio(model, n_mels, args.hidden_states)
    about = {"part": args.part, "convention": "transformers", "dtype": args.dtype}
    about |= {"model": args.model} if model else {}
    about |= {"melfront": melfront.__version__, "torch": torch.__version__}
    program = capture(graph)
    files = (write_onnx if kind == "onnx" else write_torch_export)(program, out, about)
    print(f"written to {' and '.join(map(str, files))}: {', '.join(outputs(program))}")
