"""Which mistake shows on which signal: every entry of the catalogue, run as if it were a port.

melfront parity mistakes --table parity/MISTAKES.md
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped]  # as in encoder/__main__.py

from melfront.command import PROGRESS, replacing

from .. import signals
from ..comparison.compare import compare_with
from ..comparison.reports.report import Report, number
from ..files.tensors import FLOOR, Dump, Tensor
from ..mistakes import ENCODER, FRONT_END, EncoderMistake, FrontEndMistake, run
from ..noise import NOISY, PASS, SHAPE, Array, unit_line
from ..pipeline import Pipeline, Seen, load_model
from ..resolve import of_signal
from ..stages import LN_POST, ParityError, Stage

N_MELS = 128  # of the front end's table
MODELS = {  # title: model, clip
    "toy": ("formula:toy", "toy"),
    "toy-quiet": ("formula:toy-quiet", "toy"),
    "tiny": ("formula:tiny", "sample"),
    "tiny.en": ("", "sample"),  # where its weights are found
}


def trained() -> Path | None:
    """The folder of whisper-tiny.en's weights, in the folder MELFRONT_SHARED or `../shared`.

    None where it is not found.
    """
    beside = Path(__file__).resolve().parents[3] / "shared"
    folder = Path(os.environ.get("MELFRONT_SHARED") or beside) / "whisper-tiny.en"
    return folder if folder.is_dir() else None


class Cell(NamedTuple):
    """The verdict on one mistake on one signal or model, from the final tensor alone."""

    verdict: str
    noise: float
    names: tuple[str, ...]  # what the comparison names, best first


def cell(report: Report) -> Cell:
    last = report.stages[-1]
    names = tuple(n.name for n in report.diagnosis.named) if report.diagnosis else ()
    return Cell(last.verdict, last.noise, names)


# --- front end ----------------------------------------------------------------------------------


pipeline_of = lru_cache(maxsize=16)(of_signal)


def front_end_cell(entry: FrontEndMistake, signal: str) -> Cell:
    """The features of a signal with this mistake made, in float32, as `compare` sees them."""
    pipeline = pipeline_of(signal, N_MELS)
    features = pipeline.front_end(entry.convention(pipeline.convention))["features"]
    given = {Stage("features"): Tensor(features.astype(np.float32), "float32")}
    return cell(compare_with(pipeline, Dump(given, {})))


# --- encoder ------------------------------------------------------------------------------------


class Model(NamedTuple):
    """A model with a clip, and its last hidden state in float64."""

    pipeline: Pipeline
    truth: Dump[Stage]


@lru_cache(maxsize=2)
def model_of(title: str) -> Model:
    """Raises ParityError where the model is not here."""
    name, signal = MODELS[title]
    name = name or str(trained() or "openai/whisper-tiny.en")
    encoder = load_model(name)
    pipeline = of_signal(signal, encoder.config.n_mels, encoder, name)
    pipeline.runs = {}  # the same mistakes are tried on every port
    truth = pipeline.encoder_truth([LN_POST])
    floor = pipeline.floors(truth, "float32")[LN_POST]
    published = {FLOOR + LN_POST: repr(floor)}
    return Model(pipeline, Dump({LN_POST: Tensor(truth[LN_POST], "float64")}, published))


def encoder_cell(entry: EncoderMistake, title: str) -> Cell:
    """The last hidden state of a model with this mistake made, as `compare` sees it."""
    pipeline, truth = model_of(title)
    given = {LN_POST: Tensor(made(entry, pipeline)[LN_POST], "float32")}
    return cell(compare_with(pipeline, Dump(given, {}), truth))


def made(entry: EncoderMistake, pipeline: Pipeline) -> dict[str, Array]:
    """The mistake's own stage and the last one, float32, with the mistake made."""
    seen: Any = Seen({entry.stage, LN_POST})
    mel = torch.from_numpy(pipeline.front_end_truth["features"]).float()[None]
    run(entry, pipeline.needed_model(), mel, seen, pipeline.n_audio)
    return {stage: tensor[0].numpy() for stage, tensor in seen.items()}


# --- the page -----------------------------------------------------------------------------------

Rows = dict[str, dict[str, Cell]]  # mistake, then signal or model


def front_end_rows() -> Rows:
    rows: Rows = {entry.name: {} for entry in FRONT_END}
    for signal in (*signals.SHORT, "sample"):
        for entry in tqdm(FRONT_END, desc=f"mistakes on {signal}", unit="", **PROGRESS):
            rows[entry.name][signal] = front_end_cell(entry, signal)
    return rows


def encoder_rows() -> Rows:
    """Of the models that are here."""
    rows: Rows = {entry.name: {} for entry in ENCODER}
    for title in MODELS:
        with suppress(ParityError):
            for entry in tqdm(ENCODER, desc=f"mistakes in {title}", unit="", **PROGRESS):
                rows[entry.name][title] = encoder_cell(entry, title)
    return rows


def shown(entry: str, cell: Cell) -> str:
    """One cell: how far off, and whether the mistake is named."""
    if cell.verdict == PASS:
        return "blind"
    far = "shape" if cell.verdict == SHAPE else number(cell.noise)
    mark = "✓" if cell.names == (entry,) else "≈" if entry in cell.names else "✗"
    return f"{'noisy ' * (cell.verdict == NOISY)}{far} {mark}"


def grid(rows: Rows) -> str:
    columns = list(next(iter(rows.values())))
    lines = [f"| mistake | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for name, cells in rows.items():
        lines.append(f"| {name} | {' | '.join(shown(name, c) for c in cells.values())} |")
    return "\n".join(lines)


def never_named(rows: Rows) -> list[str]:
    """Mistakes that no column names first and alone."""
    return [n for n, cells in rows.items() if not any(c.names == (n,) for c in cells.values())]


def blind(rows: Rows) -> str:
    """A line for each column: how many mistakes pass there."""
    columns = list(next(iter(rows.values())))
    lines = []
    for column in columns:
        missed = [name for name, cells in rows.items() if cells[column].verdict == PASS]
        listed = f": {', '.join(missed)}" if 0 < len(missed) <= 12 else ""
        lines.append(f"- `{column}`: blind to {len(missed)} of {len(rows)}{listed}")
    return "\n".join(lines)


def alike(rows: Rows) -> str:
    """A line for each pair of entries that some column cannot tell apart."""
    pairs: dict[tuple[str, ...], list[str]] = {}
    for name, cells in rows.items():
        for column, c in cells.items():
            if name in c.names and len(c.names) > 1:
                pairs.setdefault(tuple(sorted(c.names)), []).append(column)
    return "\n".join(
        f"- {' = '.join(names)} on {', '.join(f'`{c}`' for c in dict.fromkeys(columns))}"
        for names, columns in pairs.items()
    )


HEAD = f"""# Which mistake shows where

Every entry of the catalogue (`melfront parity mistakes`), made on purpose, and the final tensor
alone given to `parity compare`: the features for the front end, the last hidden state for the
encoder. Written by `melfront parity mistakes --table parity/MISTAKES.md`.

A number is an error in units of float32 noise: up to 2 passes, up to 10 is noisy, more is wrong.
{unit_line("transformers").capitalize()}.

- ✓ the mistake is named, first and alone
- ≈ it is named together with others that give the same numbers there (listed below each table)
- ✗ it is seen, but another or none is named
- blind: the numbers are right to within noise, so that the mistake cannot be seen
- shape: the tensor has another shape
"""


def half(title: str, about: str, rows: Rows) -> str:
    missing = never_named(rows)
    named, but = len(rows) - len(missing), f"; not so: {', '.join(missing)}" if missing else ""
    return f"""
## {title}

{about}

{named} of {len(rows)} mistakes are named first and alone in at least one column{but}.

{grid(rows)}

{blind(rows)}

The same numbers:

{alike(rows) or "- none"}
"""


def page(front: Rows, encoder: Rows) -> str:
    text = HEAD + half(
        f"Front end, {N_MELS} bins",
        "The columns are the signals of `reference_data`; MANIFEST.json there has their formulas.",
        front,
    )
    if encoder:
        text += half(
            "Encoder",
            "`toy` and `toy-quiet` are the small encoders of `reference_data/encoder`, `tiny` is "
            "the published size with formula weights, on the sample clip, `tiny.en` the trained "
            "one.",
            encoder,
        )
    return text


def write(path: str) -> str:
    """Compute the tables, write the page, and return a line on it. Takes minutes."""
    front, encoder = front_end_rows(), encoder_rows()
    with replacing(Path(path)) as temporary:
        temporary.write_text(page(front, encoder), encoding="utf-8")
    left = never_named(front) + never_named(encoder)
    return f"{path}: {len(front)} + {len(encoder)} mistakes, {len(left)} never named alone"
