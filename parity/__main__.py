"""melfront parity: stages, dump, print, compare, mistakes, libraries."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from melfront.command import NO_CHECK_RANGE, Parser, check_output, exit_status, filled

from .arithmetic.kinds import AS_STORED, EXACT, FACTORS, STORED

PROG = "melfront parity"
EXAMPLES = {
    "stages": "stages",
    "dump": "dump clip.wav --model formula:tiny/128 -o truth.safetensors",
    "print": "print features ln_post --model openai/whisper-tiny",
    "compare": "compare mine.npz --audio clip.wav --model openai/whisper-tiny",
    "mistakes": "mistakes",
    "libraries": "libraries -o parity/LIBRARIES.md",
}
EPILOG = f"""examples:
  {PROG} stages
  {PROG} dump clip.wav --model openai/whisper-tiny -o truth.npz
  {PROG} compare mine.npz --audio clip.wav --model openai/whisper-tiny
  {PROG} compare mine.npz truth.npz --plot error.png
"""
DONE, FAILED = 0, 1


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog=PROG,
        description="Find the first wrong stage of a port of Whisper, and name the mistake.",
        epilog=EPILOG,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command(commands, "stages", "list the stages: name, shape, what it is")
    dump_options(command(commands, "dump", "write our tensors of every stage"))
    print_options(command(commands, "print", "show first and last values, sum, mean of a stage"))
    compare_options(command(commands, "compare", "judge a port's tensors and name the mistake"))
    command(commands, "mistakes", "list the catalogue: name, stage, sentence").add_argument(
        "--table",
        type=filled,
        metavar="OUT.md",
        help="instead, make every mistake on every committed signal and write where it shows "
        "(takes minutes)",
    )
    command(commands, "libraries", "compare every installed library with float64").add_argument(
        "-o", dest="out", type=filled, metavar="OUT.md", help="also write it as Markdown"
    )
    return top


def command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example: {PROG} {EXAMPLES[name]}",
    )
    return made


def compare_parser() -> argparse.ArgumentParser:
    """The parser of `compare` alone, to know its options by."""
    alone = argparse.ArgumentParser(add_help=False)
    compare_options(alone)
    return alone


def dump_options(dump: argparse.ArgumentParser) -> None:
    add = dump.add_argument
    add("audio", nargs="?", type=filled, metavar="AUDIO", help="a file; default: the sample clip")
    pipeline_options(dump)
    stage_options(dump)
    add(
        "-o",
        dest="out",
        type=filled,
        required=True,
        metavar="DUMP",
        help="file to write; its name ends in .safetensors or .npz",
    )
    add(
        "--dtype",
        choices=["float64", "float32"],
        default="float64",
        help="float64: the oracle's; float32: a right port's (default: float64)",
    )
    add("--sample", action="store_true", help="only norms and 256 fixed positions of each stage")


def print_options(shown: argparse.ArgumentParser) -> None:
    shown.add_argument(
        "words",
        nargs="*",
        type=filled,
        metavar="STAGE|AUDIO",
        help="stages (default: every stage), and a file (default: the sample clip)",
    )
    pipeline_options(shown)
    stage_options(shown)


def stage_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--stages",
        nargs="+",
        type=filled,
        metavar="STAGE",
        help="only these; 'block.0.' is all of block 0 (default: every stage)",
    )


def compare_options(compare: argparse.ArgumentParser) -> None:
    add = compare.add_argument
    add("mine", type=filled, metavar="MINE", help="a file of tensors (README.md has the kinds)")
    add(
        "reference",
        nargs="?",
        type=filled,
        metavar="REFERENCE",
        help="a dump to compare with (default: the truth is computed)",
    )
    add(
        "--audio",
        nargs="+",
        type=filled,
        metavar="CLIP",
        help="the clip that MINE was made from, or the clips of a batch; also sample, or "
        "signal:NAME of reference_data (default: what MINE says, or sample)",
    )
    pipeline_options(compare)
    add(
        "--forced",
        action="store_true",
        help="compute each stage's truth from MINE's own earlier stages",
    )
    fewer_bits_options(compare)
    add("--json", action="store_true", help="one JSON object instead of text")
    add("--plot", type=filled, metavar="OUT.png", help="draw the error of the first wrong stage")


def fewer_bits_options(compare: argparse.ArgumentParser) -> None:
    compare.add_argument(
        "--computed-in",
        choices=[EXACT, *FACTORS],
        help="what the encoder's products round their factors to (default: what the errors show)",
    )
    compare.add_argument(
        "--quantised",
        choices=[AS_STORED, *STORED],
        metavar="KIND",
        help=f"what MINE's weights are stored in: {', '.join(STORED)}, or {AS_STORED} (default: "
        "what the errors show)",
    )
    compare.add_argument(
        "--accept",
        type=filled,
        metavar="UNITS",
        help="let stages be off by so many units of noise, or by those of a JSON file of "
        "stage: units",
    )
    compare.add_argument(
        "--accept-out",
        type=filled,
        metavar="OUT.json",
        help="write how far off each stage is, for --accept",
    )


def pipeline_options(command: argparse.ArgumentParser) -> None:
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
    for name, option in (
        ("out", "-o"),
        ("plot", "--plot"),
        ("table", "--table"),
        ("accept_out", "--accept-out"),
    ):
        path = getattr(options, name, None)
        if path is not None:
            check_output(Path(path), f"{option} {path}")
    plot = getattr(options, "plot", None)
    if plot is not None and Path(plot).suffix.lower() != ".png":
        raise ValueError(f"--plot {plot}: expected a name that ends in .png")


def run(options: argparse.Namespace) -> int:
    if options.command == "dump":
        return run_dump(options)
    if options.command == "compare":
        return run_compare(options)
    if options.command == "print":
        return run_print(options)
    if options.command == "stages":
        from .stages import listing

        print(listing())
    elif options.command == "libraries":
        from .pages.libraries_page import report

        print(report(options.out))
    elif options.table:
        from .pages.mistakes_page import write

        print(write(options.table))
    else:
        from .mistakes import everything

        for entry in everything():
            print(f"{entry.name:40}  {entry.stage:22}  {entry.sentence}")
    return DONE


def run_dump(options: argparse.Namespace) -> int:
    from .files.dump import dump

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


def run_print(options: argparse.Namespace) -> int:
    from .files.show import show

    show(
        options.words,
        options.model,
        wanted=options.stages,
        n_mels=options.n_mels,
        convention=options.convention,
        pad_to=options.pad_to,
        check_range=options.check_range,
    )
    return DONE


def run_compare(options: argparse.Namespace) -> int:
    from .comparison.compare import compare
    from .comparison.reports.repeat import as_command

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
        computed_in=options.computed_in,
        quantised=options.quantised,
        accept=options.accept,
    )
    result.repeat = as_command(f"{PROG} compare", compare_parser(), options)
    print(result.to_json() if options.json else result)
    if options.accept_out:
        from .comparison.accept import write_accepted

        write_accepted(result, options.accept_out)
    if options.plot:
        from .comparison.reports.plot import plot

        plot(result, options.plot)
    return DONE if result.ok else FAILED


if __name__ == "__main__":
    sys.exit(main())
