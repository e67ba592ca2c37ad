"""Check a port of Whisper's front end or encoder: find the first wrong stage, name the mistake.

report = parity.compare({"features": my_log_mel}, audio="clip.wav")
parity.assert_parity(my_log_mel, "features", audio="clip.wav")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import melfront  # noqa: F401  # first: in a checkout it makes this `melfront.parity`

if TYPE_CHECKING:
    from .api import assert_parity, resume, trace
    from .comparison.compare import compare
    from .comparison.reports.report import Report, StageResult
    from .files.dump import dump
    from .stages import ParityError

__all__ = [
    "ParityError",
    "Report",
    "StageResult",
    "assert_parity",
    "compare",
    "dump",
    "resume",
    "trace",
]

HOMES = {
    "api": ("assert_parity", "resume", "trace"),
    "comparison.compare": ("compare",),
    "comparison.reports.report": ("Report", "StageResult"),
    "files.dump": ("dump",),
    "stages": ("ParityError",),
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and --help or a mistyped option needs none of it.
    from importlib import import_module

    for module, names in HOMES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
