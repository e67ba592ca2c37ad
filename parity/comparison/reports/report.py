"""The result of a comparison, as text and as JSON."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

import melfront

from ...arithmetic.kinds import FACTORS
from ...diagnosis.match import Diagnosis
from ...noise import (
    ACCEPTED,
    MISSING,
    NOISY,
    PASS,
    QUANTISED,
    SHAPE,
    UNITS,
    UNJUDGED,
    WRONG,
    Array,
    unit_text,
)
from ...stages import Stage

SHOWN = 3  # names of mistakes


@dataclass
class StageResult:
    """One stage of the report. Errors are NaN where there was nothing to measure.

    verdict: PASS, ACCEPTED, NOISY, QUANTISED, WRONG, SHAPE, MISSING or UNJUDGED. noise: the rms
    error, in units of noise. max_abs: the largest error, in the stage's own unit.
    """

    name: Stage
    verdict: str
    noise: float = float("nan")
    max_abs: float = float("nan")
    worst: str = ""  # where the largest error is, in words
    bad: str = ""  # how many frames or positions are bad
    dtype: str = "float32"
    notes: tuple[str, ...] = ()
    floor: float = float("nan")  # one unit of noise
    unit: str = ""  # whose error that is: a key of `noise.UNITS`
    scale: float = float("nan")  # rms of the truth
    # For the picture: the error of each frame or position, and |candidate - truth|.
    steps: Array | None = field(default=None, repr=False)
    distance: Array | None = field(default=None, repr=False)
    seen: tuple[str, ...] = ()  # what can be seen in it, a sentence each
    exact: str = ""  # the sentence that explains all of its error, where no mistake does
    given: str = ""  # what of the stage was given, in words; empty for all of it
    cost: float = float("nan")  # relative rms by which quantised weights move even a right port

    def line(self, width: int) -> str:
        if self.verdict in (SHAPE, MISSING):
            return f"{self.name:{width}}  {self.verdict:7}  {'; '.join(self.notes)}"
        cost = f"the quantisation costs {100 * self.cost:.2g} %" if self.cost > 0 else ""
        said = [words for words in (self.given, *self.notes, cost) if words]
        notes = f"   ({'; '.join(said)})" if said else ""
        where = f"   worst at {self.worst}{self.bad and ', ' + self.bad}" if self.worst else ""
        return (
            f"{self.name:{width}}  {self.verdict:7}  {number(self.noise):>8} x noise   "
            f"max abs {self.max_abs:8.2e}{where}{notes}"
        )


@dataclass
class Blind:
    """The front-end mistakes that pass, and the signals that show them, best first."""

    mistakes: list[str]
    of: int  # how many were tried
    shown_by: dict[str, list[str]] = field(default_factory=dict)  # signal to mistakes

    def lines(self) -> list[str]:
        """As a report says it; nothing if every mistake would have been seen."""
        if not self.mistakes:
            return []
        lines = [
            f"{len(self.mistakes)} of {self.of} known mistakes of the front end would pass too: "
            f"{some(self.mistakes)}"
        ]
        for signal, names in self.shown_by.items():
            what = "all of them" if len(names) == len(self.mistakes) else some(names)
            lines.append(f"--audio signal:{signal} shows {what}")
        return lines


def some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names if more == 1 else names[:SHOWN]) + f" and {more} more" * (more > 1)


@dataclass
class Report:
    """The result of `parity.compare`. `ok` is True if every stage given passes.

    `str(report)` is its text; `to_json()` the same as one JSON object. `first_wrong` is a
    StageResult, `diagnosis` the mistakes that explain it; both are None if every stage passes.
    """

    stages: list[StageResult]
    diagnosis: Diagnosis | None = None
    lacking: str = ""  # why there is no diagnosis
    forced: bool = False
    computed_in: str | None = None  # what products round to, and weights are stored in: as asked
    quantised: str | None = None  # for, or as found; None: neither
    found: str = ""  # both in words, where nobody asked for them
    hidden: list[str] = field(default_factory=list)  # mistakes too small for fewer bits to show
    about: list[str] = field(default_factory=list)  # what was compared with what
    find_blind: Callable[[], Blind | None] = field(default=lambda: None, repr=False)
    others: dict[Stage, Diagnosis] = field(default_factory=dict)  # of the other stages, if forced
    hints: list[str] = field(default_factory=list)  # what to do next
    options: dict[str, Any] = field(default_factory=dict)  # `Pipeline.facts`
    repeat: str = ""  # the command or the call that gives the same report

    @property
    def first_wrong(self) -> StageResult | None:
        """The first stage that is WRONG or of another SHAPE; else the first NOISY or QUANTISED."""
        for verdicts in ((WRONG, SHAPE), (NOISY,), (QUANTISED,)):
            for stage in self.stages:
                if stage.verdict in verdicts:
                    return stage
        return None

    @cached_property
    def blind(self) -> Blind | None:
        """The known mistakes that would have passed too; found when first asked for."""
        return self.find_blind() if self.ok else None

    @property
    def ok(self) -> bool:
        return all(stage.verdict in (PASS, ACCEPTED, MISSING) for stage in self.stages)

    def headline(self) -> str:
        wrong = self.first_wrong
        if wrong is None:
            given = [stage for stage in self.stages if stage.verdict != MISSING]
            if unjudged := [stage for stage in given if stage.verdict == UNJUDGED]:
                near = "no further off than another good resampler's"
                return f"{unjudged[0].name}  UNJUDGED   {near}; {unjudged[0].notes[-1]}"
            worst = max((stage.noise for stage in given), default=0.0)
            what = f"all {len(given)} stages" if len(given) > 1 else given[0].name
            spots = [f"{s.name}: {s.bad}" for s in given if s.bad and not s.bad.startswith("0 of")]
            but = f", but look at {'; '.join(spots)}" if spots else ""
            accepted = [stage.name for stage in given if stage.verdict == ACCEPTED]
            if accepted:
                but = f", {len(accepted)} of them ACCEPTED: {', '.join(accepted)}"
            of = "".join(f"; {words}" for words in dict.fromkeys(s.given for s in given if s.given))
            words = FACTORS.get(self.computed_in or "")
            if words and not accepted:
                noise = f"{number(worst)} x {unit_name(words)} noise"
                return f"right, in {words}: {what} PASS, at most {noise}{but}{of}"
            return f"{what} PASS, at most {number(worst)} x noise{but}{of}"
        if wrong.verdict == QUANTISED:
            worst = max(s.noise for s in self.stages if s.verdict in (PASS, QUANTISED))
            return (
                f"QUANTISED   right but for {self.found}: at most {number(worst)} x the noise of a "
                f"right port with those; pass --quantised {self.quantised} if that is meant"
            )
        return self.verdict_on(wrong, self.diagnosis)

    def verdict_on(self, wrong: StageResult, found: Diagnosis | None) -> str:
        """The line on a stage that is not right."""
        if wrong.verdict == SHAPE:
            size = ""
        elif np.isnan(wrong.noise):
            size = f"   NaN or infinity at {wrong.worst or 'a sampled position'}"
            if not (found and found.named):
                return f"{wrong.name}  {wrong.verdict}{size}"
        else:
            known = not wrong.unit or wrong.unit in UNITS
            unit = wrong.dtype if known else unit_name(wrong.unit)
            size = f"   {number(wrong.noise)} x {unit} noise"
        return f"{wrong.name}  {wrong.verdict}{size}   {self.suspicion(wrong, found)}"

    def suspicion(self, wrong: StageResult, found: Diagnosis | None) -> str:
        """What the mistake may be."""
        if found is None:
            return f"not diagnosed: {self.lacking}{wrong.exact and '; '}{wrong.exact}"
        if found.right and wrong.verdict == SHAPE:
            return "nothing but the shape is wrong"
        if found.right:
            return "this is what float64 gives for this clip; the reference differs"
        if not found.named:
            if wrong.exact:
                return f"none of the known mistakes; {wrong.exact}"
            more = f"; {found.untried}" if found.untried else ""
            if found.nearest is not None:
                return (
                    "none of the known mistakes fits; the nearest, "
                    f"{found.nearest.name!r}, leaves {number(found.nearest.residual)} x noise{more}"
                )
            foreign = wrong is self.first_wrong and self.foreign()
            what = "these options" if wrong.name.of_front_end else "these weights and options"
            ask = f"; were these tensors made from this clip, and with {what}?"
            return "none of the known mistakes comes near" + more + (ask if foreign else "")
        text = " - or ".join(
            "; and ".join(f"{e.name}: {e.sentence}" for e in n.entries) for n in found.named
        )
        if len(found.named[0].entries) > 1:
            count = {2: "two", 3: "three", 4: "four"}[len(found.named[0].entries)]
            return f"looks like {count} mistakes at once: {text}"
        if found.telling:
            text += f" (the stage {found.telling} would tell them apart)"
        return f"looks like: {text}"

    def foreign(self) -> bool:
        """May the tensors be of another clip? The first wrong stage is far off, and none passed."""
        wrong = self.first_wrong
        before = self.stages[: self.stages.index(wrong)] if wrong else []
        return (
            wrong is not None
            and wrong.noise * wrong.floor > wrong.scale / 2
            and not any(stage.verdict == PASS for stage in before)
        )

    def __str__(self) -> str:
        given = [stage for stage in self.stages if stage.verdict != MISSING]
        width = max((len(stage.name) for stage in given), default=0)
        found = [f"found: {self.found}"] if self.found else []
        if found and self.computed_in == "float16":
            found = [f"found: {self.found}; TF32 products have as many bits, and may be meant"]
        lines = [*self.about, *found, *(stage.line(width) for stage in given)]
        missing = len(self.stages) - len(given)
        if missing:
            lines.append(f"{missing} stages of the reference are MISSING from what was given")
        seen = [
            entry.seen
            for n in (self.diagnosis.named if self.diagnosis else ())
            for entry in n.entries
        ]
        seen = list(dict.fromkeys(where for where in seen if where))
        lines += ["", self.headline(), *self.untold(), *(f"  seen in: {where}" for where in seen)]
        lines += [f"  {s.name}: {text}" for s in self.stages for text in s.seen]
        lines += [f"  {line}" for line in (self.blind.lines() if self.blind else ())]
        wrong = {stage.name: stage for stage in self.stages}
        lines += [self.verdict_on(wrong[stage], found) for stage, found in self.others.items()]
        lines += [f"  {hint}" for hint in self.hints]
        lines += [f"repeat with: {self.repeat}"] if self.repeat else []
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """As a notebook shows it: the text, with a colour for its verdict."""
        colour = "#1a7f37" if self.ok else "#b3261e"
        style = f"white-space: pre-wrap; border-left: 3px solid {colour}; padding-left: 1em"
        return f'<pre style="{style}">{html.escape(str(self))}</pre>'

    def untold(self) -> list[str]:
        return [f"  cannot be told at this noise: {', '.join(self.hidden)}"] if self.hidden else []

    def to_json(self) -> str:
        """The report as one JSON object, in which NaN and infinity are null."""
        wrong = self.first_wrong
        nearest = self.diagnosis.nearest if self.diagnosis else None
        return json.dumps(
            {
                "stages": [
                    {
                        "name": s.name,
                        "verdict": s.verdict,
                        "noise": finite(s.noise),
                        "max_abs": finite(s.max_abs),
                        "worst": s.worst,
                        "bad": s.bad,
                        "floor": finite(s.floor),
                        "scale": finite(s.scale),
                        "dtype": s.dtype,
                        "given": s.given,
                        "unit": unit_text(s.unit) if s.unit else None,
                        "cost": finite(s.cost),
                        "notes": list(s.notes),
                        "seen": [*filter(None, [s.exact]), *s.seen],
                        "mistakes": mistakes_of(
                            self.diagnosis if s is wrong else self.others.get(s.name)
                        ),
                    }
                    for s in self.stages
                ],
                "computed_in": self.computed_in,
                "quantised": self.quantised,
                "found": self.found,
                "hidden": self.hidden,
                "first_wrong": wrong.name if wrong else None,
                "mistakes": mistakes_of(self.diagnosis),
                "nearest": nearest and {"name": nearest.name, "residual": finite(nearest.residual)},
                "telling_stage": self.diagnosis.telling if self.diagnosis else None,
                "blind": asdict(self.blind) if self.blind else None,
                "ok": self.ok,
                "headline": self.headline(),
                "missing": [s.name for s in self.stages if s.verdict == MISSING],
                "lacking": self.lacking or None,
                "about": self.about,
                "hints": self.hints,
                "options": {**self.options, "forced": self.forced},
                "version": melfront.__version__,
                "repeat": self.repeat or None,
            },
            allow_nan=False,
        )


def mistakes_of(found: Diagnosis | None) -> list[dict[str, Any]]:
    """The mistakes of a diagnosis as in JSON, best first."""
    return [
        {
            "name": entry.name,
            "sentence": entry.sentence,
            "residual": finite(n.residual),
            "together_with": [e.name for e in n.entries if e is not entry],
        }
        for n in (found.named if found else [])
        for entry in n.entries
    ]


def unit_name(words: str) -> str:
    """float16 of "float16 products"; "activations in 8 bits" without the rest."""
    return words.removesuffix(" products").partition(",")[0]


def number(x: float) -> str:
    """Three digits: 0.87, 12.3, 8.1e4."""
    if not np.isfinite(x):
        return str(x)
    if x >= 1000:
        mantissa, exponent = f"{x:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{x:.3g}"


def finite(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None
