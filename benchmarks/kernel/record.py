"""Records of runs: one line of JSON each, and a table of them.

A record holds what it takes to run it again: the file, its SHA-256, and the options with the seed.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from melfront.command import UsageError, one_line, replacing
from melfront.encoder import SIZES
from melfront.parity import noise as measure
from melfront.parity.files.bounds import check_file
from melfront.parity.stages import from_json

from ..machine import machine, pools, versions
from .outcome import Options, Outcome
from .proof.verdict import Finding
from .report import aligned, duration
from .roofline_plot import points
from .slots import files, of_front_end
from .slots.shapes import words
from .timing.times import REFERENCE, Race
from .worker.memory import POISON

VERSION = 2  # of the format; 1 lacks "run", "about", "path", "relative_to" and "sha256"
MOST = 1 << 26  # bytes of a file: a record has some 20 KB
WIDEST = 200  # characters of a cell
LONGEST = 600  # seconds of timing, or of a call, that a record may ask for
DEEPEST = max(config.n_audio_layer for config in SIZES.values())
EXAMPLES = Path(__file__).parents[1] / "examples"


def record(outcome: Outcome, folder: Path) -> dict[str, Any]:
    """Everything about a run, as JSON can hold it; folder: of the file that it is added to."""
    timed_right = outcome.verdict == measure.PASS
    whole = outcome.whole
    return {
        "version": VERSION,
        "run": outcome.run,
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "slot": outcome.slot.name,
        "file": Path(outcome.path).name,
        "about": about(outcome.path),
        **place(Path(outcome.path), folder),
        "sha256": outcome.sha256,
        "verdict": outcome.verdict,
        "code": outcome.code,
        "text": outcome.text,
        "mistake": outcome.mistake.name if outcome.mistake else None,
        "arrays": outcome.arrays,
        "not_isolated": outcome.not_isolated,
        "interpreted": outcome.interpreted,
        "shapes": outcome.shapes,
        "left_out": outcome.left_out,
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


def about(path: str) -> str:
    """The first line of a file's docstring, which says what it is written in; or nothing."""
    with contextlib.suppress(OSError, ValueError, SyntaxError, RecursionError):
        doc = ast.get_docstring(ast.parse(Path(path).read_bytes())) or ""
        return one_line(doc.partition("\n")[0], WIDEST)
    return ""


def place(file: Path, folder: Path) -> dict[str, str]:
    """Where a file is, so that others find it: among the examples, or relative to the record."""
    file = file.resolve()
    among = EXAMPLES.resolve() in file.parents
    start = EXAMPLES if among else folder
    path = Path(os.path.relpath(file, start.resolve())).as_posix()
    return {"path": path, "relative_to": "examples" if among else "record"}


def located(record: dict[str, Any]) -> Path:
    """The file of a record that `read` has read."""
    start = EXAMPLES if record["relative_to"] == "examples" else Path(record["folder"])
    return start / record["path"]


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
        "band": race.least_difference(REFERENCE),
        "flops": race.flops,
        "bytes": race.n_bytes,
        "bandwidth": race.roof.bandwidth,
        "rate": race.roof.rate,
        "prepare": number(race.prepare),
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
        temporary.write_bytes(old + end + json.dumps(record(outcome, file.parent)).encode() + b"\n")


def read(path: str) -> list[dict[str, Any]]:
    """The records of a file, each with the "folder" of that file.

    Raises UsageError, also where no table can be made of one.
    """
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
            table([entry])
            points(entry)
            new = entry["version"] == VERSION and repeatable(entry)
            if not sound(entry) or not (new or entry["version"] == 1):
                raise ValueError
        except Exception:  # whatever is missing, of another type or no number
            raise UsageError(
                f"{path}, line {n} is not a record of this program; {advice}"
            ) from None
        records.append({**entry, "folder": str(Path(path).parent)})
    if not records:
        raise UsageError(f"{path} is empty; a run on a quiet machine with --json {path} adds to it")
    return records


def sound(entry: dict[str, Any]) -> bool:
    """Whether the numbers of a record are numbers. May raise an exception if not."""
    cases, infinite = entry["cases"], float("inf")
    noises = [c["noise"] for c in cases if c["noise"] is not None]
    bands = [c["band"] for c in cases if "ratios" in c]
    ratios = [c["ratios"]["reference"]["ratio"] for c in cases if "ratios" in c]
    return (
        type(entry["machine"]) is type(entry["versions"]) is dict
        and all(0 <= float(x) < infinite for x in noises)
        and all(0 < float(x) < infinite for x in ratios + bands)
    )


def repeatable(entry: dict[str, Any]) -> bool:
    """Whether a record can be run again, and says what ran where. May raise an exception if not."""
    path, o = entry["path"], options(entry)
    texts = (path, entry["about"], entry["verdict"], entry["code"], o.device, o.model or "")
    return all(
        [
            all(type(text) is str and text.isprintable() for text in texts),
            path.endswith(".py") and not path.startswith("/"),
            entry["relative_to"] in ("examples", "record"),
            re.fullmatch("[0-9a-f]{64}", entry["sha256"]),
            re.fullmatch("[0-9a-f]{8}", entry["run"]),
            entry["slot"] in files(),
            o.size in SIZES,
            o.dtype in (["float32"] if of_front_end(entry["slot"]) else POISON),
            type(o.threads) is type(o.seed) is int,
            1 <= o.threads <= 1 << 16,
            abs(o.seed) < 1 << 63,
            0 < o.seconds <= LONGEST,
            0 < o.limit <= LONGEST,
            o.depth is None or (type(o.depth) is int and 1 <= o.depth <= DEEPEST),
            type(o.whole) is bool,
        ]
    )


def options(record: dict[str, Any]) -> Options:
    """The options of a record."""
    given = record["options"]
    return Options(**{f.name: given[f.name] for f in fields(Options) if f.name in given})


def table(records: list[dict[str, Any]]) -> str:
    """One line for each timed case, or for each kernel that has no time."""
    rows = [["slot", "file", "case", "shape", "type", "x noise", "verdict", "time", "vs reference"]]
    for r in records:
        head, dtype = [r["slot"], r["file"]], r["options"]["dtype"]
        sizes = f" for {words(r['shapes'])}" if r.get("shapes") else ""
        timed = [c for c in r["cases"] if "times" in c]
        for c in timed:
            shape, noise = " x ".join(map(str, c["shape"])), f"{c['noise']:.2g}"
            median = duration(float(np.median(c["times"]["candidate"])))
            ratio, said = c.get("ratios", {}).get("reference"), "-"
            if ratio:
                said = f"{ratio['ratio']:.3g}x" if ratio["counts"] else "no difference"
            verdict = c["verdict"] + sizes
            rows.append([*head, c["label"], shape, dtype, noise, verdict, median, said])
        if not timed:
            said = r["mistake"] or r["code"] or "-"
            rows.append([*head, said, "", dtype, "", r["verdict"] + sizes, "", ""])
    return "\n".join(aligned([[one_line(cell, WIDEST) for cell in row] for row in rows]))
