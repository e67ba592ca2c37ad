"""Records of runs: one line of JSON each, and a table of them."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from melfront.command import UsageError, one_line, replacing
from melfront.parity import noise as measure
from melfront.parity.files.bounds import check_file
from melfront.parity.stages import from_json

from ..machine import machine, pools, versions
from .proof.verdict import Finding
from .report import aligned, duration
from .roofline_plot import points
from .run import Outcome
from .timing.times import Race

VERSION = 1  # of the format
MOST = 1 << 26  # bytes of a file: a record has some 20 KB
WIDEST = 200  # characters of a cell


def record(outcome: Outcome) -> dict[str, Any]:
    """Everything about a run, as JSON can hold it."""
    timed_right = outcome.verdict == measure.PASS
    whole = outcome.whole
    return {
        "version": VERSION,
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "slot": outcome.slot.name,
        "file": Path(outcome.path).name,
        "verdict": outcome.verdict,
        "code": outcome.code,
        "text": outcome.text,
        "mistake": outcome.mistake.name if outcome.mistake else None,
        "arrays": outcome.arrays,
        "not_isolated": outcome.not_isolated,
        "interpreted": outcome.interpreted,
        "options": asdict(outcome.options),
        "machine": machine(),
        "versions": versions(),
        "pools": pools(outcome.options.threads),
        "cases": [
            proved(f) | (timed(outcome.races[i], timed_right) if i in outcome.races else {})
            for i, f in enumerate(outcome.findings)
        ],
        "whole": whole
        and {
            "what": whole.what,
            "states": whole.names,
            "noise": list(map(number, whole.noise)),
            "times": [list(map(float, t)) for t in whole.times],
        },
    }


def proved(finding: Finding) -> dict[str, Any]:
    """What the proof says of a case."""
    return {
        "label": finding.case.label,
        "shape": list(finding.case.args[0].shape),
        "verdict": finding.verdict,
        "noise": number(finding.noise),
        "max_abs": number(finding.max_abs),
        "worst": list(finding.worst),
        "code": finding.code,
        "text": finding.text,
        "same_bits": finding.repeats,
    }


def timed(race: Race, ratios: bool) -> dict[str, Any]:
    """What the race says of a case, with or without ratios."""
    entry = {
        "times": {who or "candidate": list(map(float, t)) for who, t in race.times.items()},
        "band": race.band(),
        "flops": race.flops,
        "bytes": race.n_bytes,
        "bandwidth": race.roof.bandwidth,
        "rate": race.roof.rate,
        "checked": race.checked,
        "timed_noise": race.noise,
        "overtime": race.overtime,
        "copies": race.copies,
        "clocks": {who or "candidate": number(race.clock(who)) for who in race.clocks},
    }
    if ratios:
        found = {who: race.ratio(who) for who in race.times if who}
        entry["ratios"] = {w: {"ratio": r, "counts": counts} for w, (r, counts) in found.items()}
    return entry


def number(x: float) -> float | None:
    """JSON has neither NaN nor infinity."""
    return float(x) if np.isfinite(x) else None


def append(path: str, outcome: Outcome) -> None:
    """Add a record as a line of the file, which is written anew: whole or not at all."""
    file = Path(path)
    old = file.read_bytes() if file.is_file() else b""
    end = b"\n" * bool(old and not old.endswith(b"\n"))
    with replacing(file) as temporary:
        temporary.write_bytes(old + end + json.dumps(record(outcome)).encode() + b"\n")


def read(path: str) -> list[dict[str, Any]]:
    """The records of a file. Raises UsageError, also where no table can be made of one."""
    advice = "give what --json wrote"
    try:
        check_file(Path(path))
        if (size := os.path.getsize(path)) > MOST:
            raise UsageError(f"{path}: {size >> 20} MiB; expected at most {MOST >> 20}; {advice}")
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"{path} cannot be read: {reason}; {advice}") from None
    records = []
    for n, line in enumerate(lines, 1):
        try:
            entry = from_json(line, path)
            if entry["version"] != VERSION:
                raise ValueError
            table([entry])
            points(entry)
        except Exception:  # whatever is missing, of another type or no number
            raise UsageError(
                f"{path}, line {n} is not a record of this program; {advice}"
            ) from None
        records.append(entry)
    if not records:
        raise UsageError(f"{path} is empty; a run on a quiet machine with --json {path} adds to it")
    return records


def table(records: list[dict[str, Any]]) -> str:
    """One line for each timed case, or for each kernel that has no time."""
    rows = [["slot", "file", "case", "shape", "type", "x noise", "verdict", "time", "vs reference"]]
    for r in records:
        head, dtype = [r["slot"], r["file"]], r["options"]["dtype"]
        timed = [c for c in r["cases"] if "times" in c]
        for c in timed:
            shape, noise = " x ".join(map(str, c["shape"])), f"{c['noise']:.2g}"
            median = duration(float(np.median(c["times"]["candidate"])))
            ratio, said = c.get("ratios", {}).get("reference"), "-"
            if ratio:
                said = f"{ratio['ratio']:.3g}x" if ratio["counts"] else "no difference"
            rows.append([*head, c["label"], shape, dtype, noise, c["verdict"], median, said])
        if not timed:
            said = r["mistake"] or r["code"] or "-"
            rows.append([*head, said, "", dtype, "", r["verdict"], "", ""])
    return "\n".join(aligned([[one_line(cell, WIDEST) for cell in row] for row in rows]))
