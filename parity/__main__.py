"""python -m parity: stages, dump, compare, mistakes, libraries."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from melfront.command import NO_CHECK_RANGE, Parser, check_folder, exit_status, filled

EPILOG = """examples:
  python -m parity stages
  python -m parity dump clip.wav --model openai/whisper-tiny -o truth.npz
  python -m parity compare mine.npz --audio clip.wav --model openai/whisper-tiny
  python -m parity compare mine.npz truth.npz --plot error.png
"""

PROG = "python -m parity"
DONE, FAILED = 0, 1


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog=PROG,
        description="Find the first wrong stage of a port of Whisper, and name the mistake.",
        epilog=EPILOG,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    add(commands, "stages", "list the stages: name, shape, what it is", "python -m parity stages")

    dump = add(
        commands,
        "dump",
        "write our tensors of every stage",
        "python -m parity dump clip.wav --model formula:tiny/128 -o truth.safetensors",
    )
    dump.add_argument(
        "audio",
        nargs="?",
        type=filled,
        metavar="AUDIO",
        help="a file (default: sample, the built-in clip)",
    )
    subject_options(dump)
    dump.add_argument(
        "-o",
        dest="out",
        type=filled,
        required=True,
        metavar="DUMP",
        help="where to: a name that ends in .safetensors or .npz",
    )
    dump.add_argument(
        "--stages",
        nargs="+",
        type=filled,
        metavar="STAGE",
        help="only these; 'block.0.' is all of block 0 (default: every stage)",
    )
    dump.add_argument(
        "--dtype",
        choices=["float64", "float32"],
        default="float64",
        help="float64: the oracle's; float32: a right port's (default: float64)",
    )
    dump.add_argument(
        "--sample", action="store_true", help="only norms and 256 fixed positions of each stage"
    )

    compare = add(
        commands,
        "compare",
        "judge a port's tensors and name the mistake",
        "python -m parity compare mine.npz --audio clip.wav --model openai/whisper-tiny",
    )
    compare.add_argument(
        "mine", type=filled, metavar="MINE", help=".npz, .safetensors, or a folder of .npy"
    )
    compare.add_argument(
        "reference",
        nargs="?",
        type=filled,
        metavar="REFERENCE",
        help="a dump to compare with (default: the truth is computed)",
    )
    compare.add_argument(
        "--audio",
        nargs="+",
        type=filled,
        metavar="CLIP",
        help="the clip that MINE was made from, or the clips of a batch; also sample, or "
        "signal:NAME of reference_data (default: what MINE says, or sample)",
    )
    subject_options(compare)
    compare.add_argument(
        "--forced",
        action="store_true",
        help="compute each stage's truth from MINE's own stages before it",
    )
    compare.add_argument("--json", action="store_true", help="one JSON object instead of text")
    compare.add_argument(
        "--plot", type=filled, metavar="OUT.png", help="draw the error of the first wrong stage"
    )

    mistakes = add(
        commands,
        "mistakes",
        "list the catalogue: name, stage, sentence",
        "python -m parity mistakes",
    )
    mistakes.add_argument(
        "--table",
        type=filled,
        metavar="OUT.md",
        help="instead, make every mistake on every committed signal and write what shows where "
        "(takes minutes)",
    )

    libraries = add(
        commands,
        "libraries",
        "every installed library against float64",
        "python -m parity libraries -o parity/LIBRARIES.md",
    )
    libraries.add_argument(
        "-o", dest="out", type=filled, metavar="OUT.md", help="also write it as Markdown"
    )
    return top


def add(commands: Any, name: str, text: str, example: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", epilog=f"example: {example}"
    )
    return made


def subject_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        type=filled,
        metavar="NAME_OR_PATH",
        help="a local folder, a file, a Hub name, or formula:SIZE, which needs no download",
    )
    command.add_argument("--n-mels", type=int, metavar="N", help="mel bins (default: the model's)")
    command.add_argument(
        "--convention",
        type=filled,
        metavar="NAME",
        help="whose features: transformers, openai, ... (default: transformers)",
    )
    command.add_argument(
        "--pad-to",
        type=seconds,
        default="default",
        metavar="SECONDS",
        help="length that the clip is padded to; 'none' keeps its own (default: 30)",
    )
    command.add_argument("--no-check-range", **NO_CHECK_RANGE)


def seconds(text: str) -> float | str | None:
    if text == "default":
        return text
    if text.lower() == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}; expected seconds above 0, or none")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    def work() -> int:
        options = parser().parse_args(argv)
        check_paths(options)
        return run(options)

    return exit_status(PROG, work)


def check_paths(options: argparse.Namespace) -> None:
    """Refuse at once what cannot end well, before seconds of imports and work."""
    audio = getattr(options, "audio", None)
    clips = audio if isinstance(audio, list) else [audio]
    named = [clip for clip in clips if clip != "sample" and not str(clip).startswith("signal:")]
    for path in [getattr(options, "mine", None), getattr(options, "reference", None), *named]:
        if path is not None and not Path(path).exists():
            raise ValueError(f"{path}: no such file or folder")
    for name, option in (("out", "-o"), ("plot", "--plot"), ("table", "--table")):
        path = getattr(options, name, None)
        if path is not None:
            check_target(Path(path), f"{option} {path}")
    plot = getattr(options, "plot", None)
    if plot is not None and Path(plot).suffix.lower() != ".png":
        raise ValueError(f"--plot {plot}: expected a name that ends in .png")


def check_target(path: Path, option: str) -> None:
    """Refuse what cannot be written."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ValueError(f"{option}: no such folder to write {path.name} into")
    if path.is_dir():
        raise ValueError(f"{option}: a folder; expected the name of a file to write")
    check_folder(path, option)


def run(options: argparse.Namespace) -> int:
    if options.command == "stages":
        from .stages import listing

        print(listing())
        return DONE
    if options.command == "mistakes" and options.table:
        from .table import write

        print(write(options.table))
        return DONE
    if options.command == "mistakes":
        from .mistakes import everything

        for entry in everything():
            print(f"{entry.name:40}  {entry.stage:22}  {entry.sentence}")
        return DONE
    if options.command == "libraries":
        from .libraries_page import report

        print(report(options.out))
        return DONE

    if options.command == "dump":
        from .dump import dump

        written = dump(
            options.out,
            options.audio,
            options.model,
            wanted=options.stages,
            dtype=options.dtype,
            sample=options.sample,
            n_mels=options.n_mels,
            convention=options.convention,
            pad_to=options.pad_to,
            check_range=options.check_range,
            tell=print,
        )
        print(f"{len(written)} stage{'s' * (len(written) != 1)} written to {options.out}")
        return DONE

    from .compare import compare

    audio = options.audio
    result = compare(
        options.mine,
        options.reference,
        audio=audio[0] if audio and len(audio) == 1 else audio,
        model=options.model,
        n_mels=options.n_mels,
        convention=options.convention,
        pad_to=options.pad_to,
        check_range=options.check_range,
        forced=options.forced,
    )
    print(result.to_json() if options.json else result)
    if options.plot:
        from .plot import plot

        plot(result, options.plot)
    return DONE if result.ok else FAILED


if __name__ == "__main__":
    sys.exit(main())
