"""What `dir` and `help` show of the package: its public names, each described."""

import dataclasses
import inspect
import pydoc
import subprocess
import sys

import pytest

from melfront import encoder
from tests.conftest import CHECKOUT

CALLABLES = {
    name: value for name in encoder.__all__ if callable(value := getattr(encoder, name))
} | {
    f"ops.{slot.name}": getattr(encoder.ops, slot.name)
    for slot in dataclasses.fields(encoder.ops.Ops)
}
CALLABLES |= {f"ops.{name}": getattr(encoder.ops, name) for name in ("using", "current")}
CALLABLES |= {f"oracle.{name}": getattr(encoder.oracle, name) for name in ("encode", "trace")}


def test_dir_is_what_is_public():
    assert dir(encoder) == sorted(encoder.__all__)
    assert not [name for name in dir(encoder) if name.startswith("_")]


def test_help_describes_every_public_name():
    text = pydoc.plain(pydoc.render_doc(encoder))
    head = text.partition("PACKAGE CONTENTS")[0]
    for name in encoder.__all__:
        assert name in head, name


def test_asking_for_the_names_imports_no_torch():
    code = (
        "import sys; "
        "from melfront import encoder; dir(encoder); encoder.SIZES; print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", CALLABLES)
def test_every_public_function_says_what_it_takes(name):
    """A docstring of its own, with a shape where it takes or returns tensors."""
    value = CALLABLES[name]
    text = inspect.getdoc(value)
    assert text
    assert not text.startswith(f"{name}(")  # what a dataclass makes up
    if name.startswith("ops.") and name not in ("ops.using", "ops.current"):
        assert "(" in text or "any shape" in text, text
