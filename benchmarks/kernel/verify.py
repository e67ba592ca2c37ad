"""A record run again, with its file, options and seed: do its verdict, error and ratios hold?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from melfront.command import UsageError, one_line

from ..machine import machine, processors, versions
from ..race import TOO_BUSY
from .outcome import Options, Outcome
from .reasons import Refused
from .record import located, options
from .report import kind
from .run import judge_file, sha256
from .timing.times import REFERENCE

SAME_ERROR = 2.0  # the unit of error is the op's own, which differs from one CPU to another
NO_ERROR = 0.1  # x noise: errors this small, and differences, say nothing
Said = Iterator[tuple[bool, str]]  # whether something holds, and a line about it


def repeatable(record: dict[str, Any], model: str | None) -> tuple[Path, Options]:
    """The file and the options of a record. Raises UsageError if it cannot be run here.

    model: the weights, which the user has to name: a record may come from anybody.
    """
    if record["version"] == 1:
        raise UsageError("an old record, without path and SHA-256; run the kernel anew with --json")
    file, asked = located(record), options(record)
    if not file.is_file():
        raise UsageError(f"{file} is not there; put the kernel there")
    if asked.model != model:
        advice = f"give --model {asked.model}" if asked.model else "leave --model out"
        raise UsageError(f"was proved with {asked.model or 'built-in'} weights; {advice}")
    return file, replace(asked, threads=min(asked.threads, processors()), prints=False)


def compared(
    record: dict[str, Any], file: Path, asked: Options, say: Callable[[str], None]
) -> tuple[bool, list[str]]:
    """Whether a record holds, and lines that say so. Raises UsageError for a file of no use."""
    name = f"{record['slot']}  {record['path']}"
    if sha256(file) != record["sha256"]:
        return False, [f"{name}  does not hold: the file has changed since, and was not run"]
    try:
        outcome = judge_file(str(file), record["slot"], asked, say)
    except Refused as refused:
        raise UsageError(one_line(refused.text)) from None
    said = [*proof(record, outcome), *times(record, outcome)]
    holds = all(good for good, _ in said)
    head = f"{name}  {'holds' if holds else 'does not hold'} (run {outcome.run})"
    return holds, [head, *(f"  {one_line(line)}" for _, line in said)]


def proof(record: dict[str, Any], outcome: Outcome) -> Said:
    """Verdict and error."""
    mine, theirs = kind(outcome.verdict, outcome.code), kind(record["verdict"], record["code"])
    yield mine == theirs, f"verdict: {mine}, recorded {theirs}"
    if mine == theirs and outcome.good:
        new = np.max([0.0, *(f.noise for f in outcome.findings)])
        old = np.max([0.0, *(c["noise"] or 0.0 for c in record["cases"])])
        same = bool(max(new, old) <= SAME_ERROR * min(new, old) + NO_ERROR)
        yield same, f"error: {new:.2g} x noise, recorded {old:.2g}"


def times(record: dict[str, Any], outcome: Outcome) -> Said:
    """The ratio to the reference in each case, where it can be told, and other versions."""
    timed = [(outcome.findings[i].case, race) for i, race in outcome.races.items()]
    races = {(case.label, case.shape()): race for case, race in timed}
    busy = elsewhere(record, outcome) or outcome.warning.partition(". ")[0]
    for case in record["cases"]:
        if REFERENCE not in case.get("ratios", {}):
            continue
        label, shape = case["label"], " x ".join(map(str, case["shape"]))
        race, old = races.get((label, shape)), case["ratios"][REFERENCE]["ratio"]
        what = f"{label}, {shape}: recorded {old:.3g}x"
        if busy or not race or case["band"] > np.log(TOO_BUSY):
            yield True, f"{what}, could not be told: {busy or 'one of the two runs has no time'}"
            continue
        new = race.ratio(REFERENCE)[0]
        band = race.least_difference(REFERENCE) + case["band"]
        same = bool(abs(np.log(new / old)) <= band)
        which = "no further apart" if same else "further apart"
        yield same, f"{what}, now {new:.3g}x: {which} than both runs' bands, {np.expm1(band):.0%}"
    here, there = versions(), record["versions"]
    others = [
        f"{name} {here[name]}, recorded {there[name]}"
        for name in here
        if name in there and here[name] != there[name]
    ]
    if others:
        yield True, f"other versions: {'; '.join(others)}"


def elsewhere(record: dict[str, Any], outcome: Outcome) -> str:
    """What is another machine than the record's, in words; nothing if none is."""
    here, there = machine(), record["machine"]
    for key in ("cpu", "cores", "gpu"):
        if here[key] != there.get(key):
            return f"recorded with {key} {there.get(key)}, and this is {here[key]}"
    threads = options(record).threads
    return f"recorded with {threads} threads" if outcome.options.threads != threads else ""
