"""What the libraries compute, as a page: `python -m parity libraries -o parity/LIBRARIES.md`."""

from __future__ import annotations

import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any

from melfront.conventions import HOP_LENGTH, N_SAMPLES, SAMPLE_RATE

from .. import noise as measure
from .. import signals
from ..comparison.report import number
from ..files.tensors import replacing
from ..noise import PASS
from . import libraries
from .libraries import Judged


def masks() -> list[tuple[str, int, int]]:
    """How transformers is asked for the sample clip's mask, the mask's length, and its sum."""
    clip = signals.sample()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    ways: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("`extractor(audio, return_attention_mask=True)`", {}, {"return_attention_mask": True}),
        (
            "`extractor(audio, return_attention_mask=True, do_normalize=True)`",
            {},
            {"return_attention_mask": True, "do_normalize": True},
        ),
        ("`extractor(audio, do_normalize=True)`", {}, {"do_normalize": True}),
        (
            "`WhisperFeatureExtractor(return_attention_mask=True)(audio)`",
            {"return_attention_mask": True},
            {},
        ),
    ]
    rows = []
    for how, built, called in ways:
        made = libraries.extractor(80, **built)
        mask = made(clip, sampling_rate=SAMPLE_RATE, return_tensors="np", **called)[
            "attention_mask"
        ]
        rows.append((how, mask.shape[-1], int(mask.sum())))
    return rows


HEAD = """# What the libraries compute

The log-mel features of every library that was installed, on the signals of
`reference_data`, against float64. Written by
`python -m parity libraries -o parity/LIBRARIES.md`; every cell comes from
running, and what a library does differently was found by `parity compare` from
its numbers alone. `left` is the noise that remains once that is assumed.

One unit of noise is what transformers' own float32 computation is away from
float64 on that signal. Up to 2 passes, up to 10 is noisy, more is wrong. Each
number is the larger of 80 and 128 bins.
"""


def report(out: str | None = None) -> str:
    """Run everything that is installed; Markdown, also written to the file `out`. Takes minutes."""
    present = libraries.installed()
    text = page(
        libraries.judge_all(present), [lib for lib in libraries.LIBRARIES if lib not in present]
    )
    if out is not None:
        with replacing(Path(out)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    return text


def page(results: libraries.Results, missing: list[libraries.Library]) -> str:
    lines = [HEAD]
    lines += ["| library | version | noise at most | verdict | what it does differently | left |"]
    lines += ["| --- | --- | ---: | --- | --- | ---: |"]
    for name, found in results.items():
        worst = max(found.values(), key=libraries.sort_key)
        lines.append(
            f"| {name} | {libraries.version(libraries.find(name).package)} | {amount(worst)} "
            f"| {worst.verdict} | {difference(found)} | {number(left(found))} |"
        )
    lines += [f"| {lib.name} | not installed | | | | |" for lib in missing]
    lines += ["", "How each was called:", ""]
    lines += [f"- {lib.name}: {lib.call}" for lib in libraries.LIBRARIES if lib.name in results]
    lines += ["", "## Signal by signal", "", f"| library | {' | '.join(libraries.SIGNALS)} |"]
    lines += ["| --- |" + " ---: |" * len(libraries.SIGNALS)]
    for name, found in results.items():
        lines.append(f"| {name}{' *' * libraries.find(name).window} | {cells(found)} |")
    lines += [
        "",
        "\\* is made for clips that zeros follow: the short clips were padded to "
        f"{libraries.WINDOW} s.",
        "",
    ]
    if libraries.version("transformers"):
        lines += mask_lines()
    return "\n".join(lines)


def cells(found: dict[str, Judged]) -> str:
    return " | ".join(amount(found[signal]) for signal in libraries.SIGNALS)


def amount(found: Judged) -> str:
    """How far off, in a table's cell."""
    return "shape" if found.verdict == measure.SHAPE else number(found.noise)


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
