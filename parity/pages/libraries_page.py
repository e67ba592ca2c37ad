"""What the libraries compute, as a page: `melfront parity libraries -o parity/LIBRARIES.md`.

What a library does differently is not written down here: `parity.compare` finds it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm  # type: ignore[import-untyped]  # as in encoder/__main__.py

from melfront.command import PROGRESS, replacing
from melfront.conventions import HOP_LENGTH, N_SAMPLES, SAMPLE_RATE

from .. import signals
from ..comparison.compare import compare
from ..comparison.reports.report import number
from ..noise import MISSING, NOISY, PASS, SHAPE, WRONG, Array, unit_line
from ..pipeline import Pipeline
from ..resolve import of_signal
from . import libraries
from .libraries import Library

# --- judging ------------------------------------------------------------------------------------

N_MELS = (80, 128)
WINDOW = 0.5  # seconds that short clips are padded to, where zeros are expected after the clip
SIGNALS = (*signals.SHORT, "sample")
Results = dict[Library, dict[str, "Judged"]]


class Judged(NamedTuple):
    """One library on one signal, the worse of 80 and 128 bins."""

    verdict: str
    noise: float
    names: tuple[str, ...]  # the mistakes that fit, best first
    left: float  # noise that is left once the first of them is assumed
    nearest: str  # where none fits


@lru_cache(maxsize=64)
def pipeline_of(signal: str, n_mels: int, window: bool) -> Pipeline:
    """A signal at its own length, or padded to WINDOW."""
    made = of_signal(signal, n_mels)
    return replace(made, pad_to=WINDOW) if window and signal != "sample" else made


def features_of(library: Library, pipeline: Pipeline) -> Array:
    """What the library makes of a pipeline's clip: (M, F), or (B, M, F) of a batch."""
    clips = pipeline.clips
    out = library.run(list(clips.arrays), pipeline.length, pipeline.n_mels)
    return out if clips.batched else out[0]


def sort_key(found: Judged) -> tuple[int, float]:
    return [PASS, NOISY, WRONG, SHAPE, MISSING].index(found.verdict), found.noise


def judge(library: Library, signal: str) -> Judged:
    """The library's features of this signal against float64, with the mistake's name."""
    return max((judge_at(library, signal, n_mels) for n_mels in N_MELS), key=sort_key)


def judge_at(library: Library, signal: str, n_mels: int) -> Judged:
    pipeline = pipeline_of(signal, n_mels, library.window)
    given = {"features": features_of(library, pipeline)}
    result = compare(given, audio=pipeline.audio, n_mels=n_mels, pad_to=pipeline.pad_to)
    stage, found = result.stages[0], result.diagnosis
    names = tuple(named.name for named in found.named) if found else ()
    nearest = found.nearest.name if found and found.nearest else ""
    left = found.named[0].residual if found and found.named else stage.noise
    return Judged(stage.verdict, stage.noise, names, left, nearest)


def judge_all(libraries: Iterable[Library]) -> Results:
    """Every library on every signal: library to signal to result."""
    return {
        library: {signal: judge(library, signal) for signal in SIGNALS}
        for library in tqdm(list(libraries), desc="libraries", unit="", **PROGRESS)
    }


# --- the page -----------------------------------------------------------------------------------


def masks() -> list[tuple[str, int, int]]:
    """How transformers is asked for the sample clip's mask, the mask's length, and its sum."""
    asked, norm = {"return_attention_mask": True}, {"do_normalize": True}
    ways: dict[str, tuple[dict[str, bool], dict[str, bool]]] = {
        "`extractor(audio, return_attention_mask=True)`": ({}, asked),
        "`extractor(audio, return_attention_mask=True, do_normalize=True)`": ({}, asked | norm),
        "`extractor(audio, do_normalize=True)`": ({}, norm),
        "`WhisperFeatureExtractor(return_attention_mask=True)(audio)`": (asked, {}),
    }
    rows = []
    for how, (built, called) in ways.items():
        extract = libraries.extractor(80, **built)
        out = extract(signals.sample(), sampling_rate=SAMPLE_RATE, return_tensors="np", **called)
        mask = out["attention_mask"]
        rows.append((how, mask.shape[-1], int(mask.sum())))
    return rows


HEAD = f"""# What the libraries compute

The log-mel features of every library that was installed, on the signals of
`reference_data`, against float64. Written by
`melfront parity libraries -o parity/LIBRARIES.md`; every cell comes from
running, and what a library does differently was found by `parity compare` from
its numbers alone. `left` is the noise that remains once that is assumed.

{unit_line("transformers").capitalize()}. Up to 2
passes, up to 10 is noisy, more is wrong. Each number is the larger of 80 and 128 bins.
"""


def report(out: str | None = None) -> str:
    """Run everything that is installed; Markdown, also written to the file `out`. Takes minutes."""
    present = libraries.installed()
    text = page(judge_all(present), [lib for lib in libraries.LIBRARIES if lib not in present])
    if out is not None:
        with replacing(Path(out)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    return text


def page(results: Results, missing: list[Library]) -> str:
    lines = [HEAD]
    lines += ["| library | version | noise at most | verdict | what it does differently | left |"]
    lines += ["| --- | --- | ---: | --- | --- | ---: |"]
    for lib, found in results.items():
        worst = max(found.values(), key=sort_key)
        lines.append(
            f"| {lib.name} | {libraries.version(lib.package)} | {amount(worst)} "
            f"| {worst.verdict} | {difference(found)} | {number(left(found))} |"
        )
    lines += [f"| {lib.name} | not installed | | | | |" for lib in missing]
    lines += ["", "How each was called:", ""]
    lines += [f"- {lib.name}: {lib.call}" for lib in results]
    lines += ["", "## Signal by signal", "", f"| library | {' | '.join(SIGNALS)} |"]
    lines += ["| --- |" + " ---: |" * len(SIGNALS)]
    for lib, found in results.items():
        cells = " | ".join(map(amount, found.values()))
        lines.append(f"| {lib.name}{' *' * lib.window} | {cells} |")
    lines += [
        "",
        f"\\* is made for clips that zeros follow: the short clips were padded to {WINDOW} s.",
        "",
    ]
    if libraries.version("transformers"):
        lines += mask_lines()
    return "\n".join(lines)


def amount(found: Judged) -> str:
    """How far off, in a table's cell."""
    return "shape" if found.verdict == SHAPE else number(found.noise)


def difference(found: dict[str, Judged]) -> str:
    """What `compare` named, and on how many of the signals.

    Where a signal cannot tell several apart, it is counted for the one that most signals name.
    """
    off = [judged for judged in found.values() if judged.verdict != PASS]
    if not off:
        return "nothing"
    often = Counter(name for judged in off for name in judged.names)
    counts = Counter(max(judged.names, key=often.__getitem__) for judged in off if judged.names)
    texts = [f"{name} ({n} of {len(found)} signals)" for name, n in counts.most_common()]
    unnamed = [judged for judged in off if not judged.names]
    if unnamed:
        near = Counter(judged.nearest or "nothing" for judged in unnamed).most_common(1)[0][0]
        texts.append(f"not named on {len(unnamed)}, the nearest there: {near}")
    return "; ".join(texts)


def left(found: dict[str, Judged]) -> float:
    """The most that is left on any signal where the difference is named, or there is none."""
    return max((j.left for j in found.values() if j.names or j.verdict == PASS), default=math.nan)


def mask_lines() -> list[str]:
    """What transformers' mask of the sample clip is, asked for in four ways."""
    frames = len(signals.sample()) / HOP_LENGTH
    lines = [
        "## The masks of transformers",
        "",
        f"transformers {libraries.version('transformers')}, the sample clip: {frames:g} of "
        f"{N_SAMPLES // HOP_LENGTH} frames hold audio. A mask of {N_SAMPLES} entries has one for "
        "each sample; the features have one column for each frame.",
        "",
        "| asked for by | entries | sum |",
        "| --- | ---: | ---: |",
    ]
    return lines + [f"| {how} | {size} | {total} |" for how, size, total in masks()]
