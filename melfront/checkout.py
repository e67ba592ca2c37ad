"""One name for each package, in a checkout too. Nothing in here is needed to read the rest.

Installed, every package is inside this one: `melfront.encoder`, `melfront.parity`, ... In a
checkout their folders stand next to it. There a finder looks for `melfront.encoder` in `encoder/`,
and makes `encoder` a second name of that module, never a second module. The short name is the
checkout's only if its folder comes first on the path: a project's own `encoder.py` stays its own.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).absolute().parent
PACKAGES = ("encoder", "parity", "benchmarks", "reference_data")
INSTALLED = (HERE / PACKAGES[0]).is_dir()
# The folder that holds them.
ROOT = HERE if INSTALLED else HERE.parent


class Finder(Loader):
    """Knows the long names and, while they are the checkout's, the short ones.

    It loads a module by its long name, whatever name it was asked for by.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        top, _, rest = name.partition(".")
        if top == "melfront":
            return PathFinder.find_spec(name, [str(ROOT)]) if rest in PACKAGES else None
        if top not in PACKAGES or not is_ours(sys.modules.get(top) or PathFinder.find_spec(top)):
            return None
        long = find_spec(f"melfront.{name}")
        if long is None:
            return None
        package = long.submodule_search_locations is not None
        return ModuleSpec(name, self, origin=long.origin, is_package=package)

    def exec_module(self, module: ModuleType) -> None:
        # The import system takes what it finds here afterwards, and drops the empty `module`.
        sys.modules[module.__name__] = import_module(f"melfront.{module.__name__}")

    def get_code(self, name: str) -> Any:
        """For `python -m encoder`."""
        long = find_spec(f"melfront.{name}")
        return long.loader.get_code(long.name)  # type: ignore[union-attr]  # the file is there


def is_ours(found: ModuleType | ModuleSpec | None) -> bool:
    """Whether a package of a short name is one of the checkout's folders."""
    spec = found.__spec__ if isinstance(found, ModuleType) else found
    if spec is None or not spec.origin or not os.path.exists(spec.origin):
        return False
    return Path(spec.origin).resolve().parent.parent == ROOT.resolve()


def rename(module: ModuleType, long: str) -> None:
    """`import encoder` came first, and its first line has led here: the rest of it runs as
    `melfront.encoder`."""
    spec = PathFinder.find_spec(long, [str(ROOT)])
    assert spec is not None
    module.__spec__, module.__loader__ = spec, spec.loader
    module.__name__ = module.__package__ = long
    sys.modules[long] = module
    setattr(sys.modules["melfront"], long.rpartition(".")[2], module)


def is_command() -> bool:
    """Whether this process is one of our commands, of which Python is loading the packages."""
    if sys.argv[:1] != ["-m"]:  # what stands there while `python -m NAME` imports NAME
        return bool(sys.argv) and Path(sys.argv[0]).name == "melfront"
    names = ("melfront", *(() if INSTALLED else PACKAGES))
    return sys.orig_argv[sys.orig_argv.index("-m") + 1].partition(".")[0] in names


if is_command():
    # Ctrl-C ends it at once, without a traceback, until `command.exit_status` takes over.
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, signal.SIG_DFL)
if not INSTALLED:
    sys.meta_path.insert(0, Finder())
    for short in PACKAGES:
        if short in sys.modules and is_ours(sys.modules[short]):
            rename(sys.modules[short], f"melfront.{short}")
