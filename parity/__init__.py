"""Check a port of Whisper's front end or encoder: find the first wrong stage, name the mistake.

report = parity.compare({"features": my_log_mel}, audio="clip.wav")
parity.assert_parity(my_log_mel, "features", audio="clip.wav")
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import assert_parity, resume, trace
    from .comparison.compare import compare
    from .comparison.report import Report, StageResult
    from .files.dump import dump
    from .files.tensors import ParityError

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
    "files.dump": ("dump",),
    "comparison.report": ("Report", "StageResult"),
    "files.tensors": ("ParityError",),
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: not for a --help or a mistyped option.
    from importlib import import_module

    for module, names in HOMES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Package(ModuleType):
    """This package. Importing parity/compare.py would bind `parity.compare` to the module."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in __all__ or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


# `parity.compare` and `parity.dump` are the functions, however often and whence they are imported.
sys.modules[__name__].__class__ = Package
