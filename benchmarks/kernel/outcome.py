"""What was asked of a run, and what came of it."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from typing import Any

from melfront.parity import noise as measure

from .proof import diagnose
from .proof.verdict import Finding
from .slots.base import Slot
from .slots.signature import Shapes
from .timing import whole
from .timing.times import Race


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    size: str = "tiny"
    model: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1
    seed: int = 0
    seconds: float = 3.0  # of timing for each case, and for the whole
    limit: float = 20.0  # seconds that one call may take
    whole: bool = True
    depth: int | None = None
    prints: bool = False


@dataclass
class Outcome:
    """Everything known about a kernel at the end."""

    slot: Slot
    path: str
    options: Options
    verdict: str = measure.PASS
    code: str = ""
    text: str = ""
    findings: list[Finding] = field(default_factory=list)
    mistake: diagnose.Suspect | None = None
    races: dict[int, Race] = field(default_factory=dict)  # by number of the finding
    whole: whole.Whole | None = None
    arrays: str = ""
    not_isolated: str = ""  # why the kernel's process has no namespaces of its own
    interpreted: bool = False
    shapes: Shapes = field(default_factory=dict)  # that the kernel declares, if it does
    left_out: int = 0  # cases of other shapes
    remark: str = ""  # what was not done, and why
    hint: str = ""  # what the file may declare
    warning: str = ""
    flushes: bool = False  # numbers below 1e-38 count as 0
    tasks: int = 0  # threads that it had at the end of its proof
    switches: list[str] = field(default_factory=list)  # settings that it has changed, in words
    seconds: float = 0.0
    sha256: str = ""  # of the file, before it was loaded
    # Drawn here, where no kernel can read it as it can the seed of a command line: a verdict that a
    # kernel prints has another number than the report and the record.
    run: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def good(self) -> bool:
        return self.verdict in (measure.PASS, measure.NOISY)

    def note(self, switches: list[str]) -> None:
        """Remember settings that the kernel has changed, each once."""
        self.switches += [line for line in switches if line not in self.switches]

    def order(self, kernel: bool, ours: list[Any] | None = None) -> dict[str, Any]:
        """What a new worker is told: whether to load the kernel, and what of ours."""
        order = {"threads": self.options.threads, "device": self.options.device, "ours": ours}
        if kernel:
            # Absolute: workers are forked from a process that keeps the folder it was started in.
            path, slot = os.path.abspath(self.path), self.slot
            order |= {"path": path, "slot": slot.name, "weights": slot.weights}
        return order
