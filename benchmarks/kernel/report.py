"""What is printed of a kernel: one screen."""

from __future__ import annotations

import textwrap

import numpy as np

from melfront.command import one_line
from melfront.parity import noise as measure

from .outcome import Outcome
from .reasons import REASONS
from .slots import everything
from .slots.shapes import words
from .timing.times import REFERENCE, TWIN, Race
from .timing.whole import Whole

TOO_BUSY = "too busy to say"


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows of cells as lines in which the columns stand below each other."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def text(o: Outcome) -> str:
    """The report on a kernel: its cases, its times if it has any, and the verdict."""
    options = o.options
    lines = [
        f"{o.slot.name}  {o.path}  {options.dtype} on {options.device}, "
        f"{options.threads} threads, {one_line(o.arrays) or '?'} arrays, {signed(o)}"
    ]
    rows = [["case", "shape", "x noise", ""]]
    for f in o.findings:
        noise = f"{f.noise:.3g}" if f.noise == f.noise else "-"
        said = one_line(f"{f.code}: {f.text}") if f.code else f.verdict
        rows.append([f.case.label, f.case.shape(), noise, said])
    lines += [*aligned(rows), measure.unit_line("op")]
    if o.races:
        lines += times(o)
    if o.whole:
        lines += in_place(o.whole)
    lines += [o.remark] * bool(o.remark)
    if o.flushes:
        lines.append("numbers below 1e-38 count as 0")
    if o.switches:
        lines.append(f"changes {', '.join(o.switches)}: set back")
    if o.not_isolated:
        lines.append(f"not isolated: this system gives a kernel no namespaces ({o.not_isolated})")
    lines.append(verdict(o))
    if o.warning:
        lines.append(f"WARNING: {o.warning}")
    return "\n".join(lines)


def times(o: Outcome) -> list[str]:
    """The table of times, and what they are worth."""
    races = list(o.races.values())
    rivals = [n for n in races[0].times if n not in ("", TWIN) and o.verdict == measure.PASS]
    rows = [["time", "median [p20 p80]", *(f"vs {n}" for n in rivals), "roof"]]
    for i, race in o.races.items():
        label = o.findings[i].case.label
        if race.unclear():
            rows.append([label, TOO_BUSY, *[""] * (len(rows[0]) - 2)])
        else:
            roof = f"{race.of_roof():.0%}" if race.roof.bandwidth else "-"
            rows.append([label, spread(race), *(versus(race, n) for n in rivals), roof])
    lines = aligned(rows)
    if clear := [r for r in races if not r.unclear()]:
        band = max(np.expm1(r.least_difference(REFERENCE)) for r in clear)
        copies = ", ".join(f"{np.exp(r.log_ratio(REFERENCE, TWIN)[1]):.2f}" for r in clear)
        lines.append(
            f"second copy of the reference, in a process of its own: {copies} x; "
            f"ratios within {band:.0%} are no difference (=)"
        )
    if reasons := sorted({r.unclear() for r in races} - {""}):
        lines.append(
            f"{TOO_BUSY}: {', '.join(reasons)}. "
            f"Run it again when the machine is quiet, or with --seconds {4 * o.options.seconds:g}"
        )
    if o.options.device != "cpu":
        lines.append(on_device(races))
    if spent := [duration(r.prepare) for r in races if r.prepare == r.prepare]:
        lines.append(f"prepare {', '.join(spent)}, once per set of weights, not in the time")
    for said in sorted({r.others for r in races} - {""}):
        lines.append(f"meanwhile {said}: if that is for the kernel, these times are not its own")
    checked, worst = sum(r.checked for r in races), max(r.noise for r in races)
    return [*lines, f"{checked} timed results checked, the worst {worst:.3g} x noise"]


def on_device(races: list[Race]) -> str:
    """How a device was timed, and at which clocks."""
    copies = ", ".join(str(r.copies) for r in races)
    mine, ours = (", ".join(f"{r.clock(who):.0f}" for r in races) for who in ("", REFERENCE))
    clocks = f"SM clock {mine} MHz, the reference's {ours}"
    if any(r.clock("") != r.clock("") for r in races):
        clocks = "SM clocks unknown: no NVML here"
    return f"a call is its share of {copies} copies, waited for once; {clocks}"


def spread(race: Race) -> str:
    median, low, high = map(duration, (race.median(""), *race.spread("")))
    return f"{median} [{low} {high}]"


def versus(race: Race, rival: str) -> str:
    ratio, counts = race.ratio(rival)
    return f"{ratio:.3g}x" if counts else f"{ratio:.2f}x ="


def in_place(w: Whole) -> list[str]:
    """What the run of the encoder with the kernel in it says."""
    noise = " ".join(f"{n:.2g}" for n in w.noise)
    lines = [
        f"in its place ({w.what}): hidden states {noise} x noise, first to last",
        f"  {measure.unit_line('encoder')}",
    ]
    if w.times:
        mine, ours = (float(np.median(t)) for t in w.times)
        low, ratio, high = w.ratio()
        said = f"{duration(mine)}, with ours {duration(ours)}: "
        said += f"{ratio:.2f}x, between {low:.2f} and {high:.2f}"
        lines.append(f"  end to end {TOO_BUSY if w.unclear() else said}")
    return lines


def signed(o: Outcome) -> str:
    """What the first line, the verdict's and the record have in common, and no forged one has."""
    return f"seed {o.options.seed}, run {o.run}"


def kind(verdict: str, code: str) -> str:
    """A verdict with its reason, where that says more."""
    return f"{verdict}: {code}" if code not in ("", verdict) else verdict


def verdict(o: Outcome) -> str:
    """The last line."""
    if o.good:
        same = all(f.repeats for f in o.findings)
        end = "the same bits every time" if same else "bits differ from call to call"
        if o.interpreted:
            end += "; by Triton's interpreter, on cases cut short: a proof, and no time"
        if o.verdict == measure.NOISY:
            end += "; right, but noisier than the reference: a time and no ratio"
        sizes = f" for {words(o.shapes)}" if o.shapes else ""
        out = f", {o.left_out} of other shapes left out" if o.left_out else ""
        said = f"{len(o.findings)} cases{out}, {end}"
        return f"{o.verdict}{sizes}: {said} ({o.seconds:.0f} s, {signed(o)})"
    line = kind(o.verdict, o.code) + (" - " if o.code != o.verdict else ": ") + o.text
    line = f"{one_line(line)} ({signed(o)})"  # a kernel's words may be in it
    if o.mistake:
        line += f"\n  looks like: {o.mistake.name} - {o.mistake.sentence}"
    elif o.code in REASONS:
        line += f"\n  ({REASONS[o.code]})"
    if o.hint:
        line += f"\n  {o.hint}"
    return line


def listing() -> str:
    """Every slot, for --list."""
    lines = []
    for slot in everything():
        call, *more = slot.paragraphs
        more.append("timed with it: " + ", ".join([REFERENCE, *slot.rivals]))
        lines += textwrap.wrap(call, 96, subsequent_indent="    ")
        for said in more:
            lines += textwrap.wrap(said, 92, initial_indent="    ", subsequent_indent="    ")
        lines.append("")
    return "\n".join(lines)
