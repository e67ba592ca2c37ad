"""The ops that people can bring a kernel for, one file each: `front_end/*.py` and `encoder/*.py`.

A slot's docstring says how it is called, what it does and which shapes it has. The folder
`templates/` next to it has a file of the same name to start a kernel from. To add a slot is to add
these two.

Nothing is imported before `find`: the command line knows all names without waiting for torch.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Slot

FOLDERS = [Path(__file__).with_name(name) for name in ("front_end", "encoder")]
HEAD = '''"""A kernel for the slot {name}. Prove and time it:

    melfront benchmarks kernel {name} THIS_FILE.py

{doc}
"""

'''


def files() -> dict[str, Path]:
    """The file of each slot, by name: the front end's first."""
    found = [file for folder in FOLDERS for file in sorted(folder.glob("[!_]*.py"))]
    return {file.stem: file for file in found}


def of_front_end(name: str) -> bool:
    """Whether this slot belongs to the front end, not to the encoder."""
    return files()[name].parent.name == "front_end"


def template(name: str) -> str:
    """The text of a kernel to start from, which passes its proof. Raises KeyError."""
    file = files()[name]
    doc = ast.get_docstring(ast.parse(file.read_text("utf-8")))
    body = (file.parent / "templates" / file.name).read_text("utf-8")
    return HEAD.format(name=name, doc=doc) + body


def find(name: str) -> Slot:
    """The slot of this name; imports torch. Raises KeyError."""
    file = files()[name]
    return importlib.import_module(f"{__name__}.{file.parent.name}.{name}").SLOT


def everything() -> list[Slot]:
    """Every slot; imports torch."""
    return [find(name) for name in files()]
