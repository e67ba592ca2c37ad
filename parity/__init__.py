"""Check a port of Whisper's front end or encoder: find the first wrong stage, name the mistake.

    report = parity.compare({"features": my_log_mel}, audio="clip.wav")
    parity.assert_parity(my_log_mel, "features", audio="clip.wav")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import assert_parity, resume, trace
    from .compare import Report, StageResult, compare
    from .dump import dump
    from .tensors import ParityError

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
    "compare": ("Report", "StageResult", "compare"),
    "dump": ("dump",),
    "tensors": ("ParityError",),
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: not for a --help or a mistyped option.
    from importlib import import_module

    for module, names in HOMES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
