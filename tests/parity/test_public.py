"""The package's public names, each documented with its arguments and errors."""

import importlib
import inspect
import pkgutil
import pydoc
import re

import pytest

from melfront import parity

MODULES = [
    found.name
    for found in pkgutil.walk_packages(parity.__path__, "parity.")
    if not found.name.endswith("__main__")
]


def test_dir_and_help_show_public_names():
    assert dir(parity) == sorted(parity.__all__)
    text = pydoc.plain(pydoc.render_doc(parity))
    for name in parity.__all__:
        assert name in text
    assert "HOMES" not in text


@pytest.mark.parametrize("name", parity.__all__)
def test_every_public_name_is_documented(name):
    doc = inspect.getdoc(getattr(parity, name))
    assert doc
    if inspect.isfunction(getattr(parity, name)):
        assert "Raises" in doc
        for parameter in inspect.signature(getattr(parity, name)).parameters:
            assert re.search(rf"\b{parameter}\b", doc, re.IGNORECASE), parameter


def test_no_module_hides_a_function():
    """`parity.compare` stays the function after its modules have been imported."""
    public = {name: getattr(parity, name) for name in parity.__all__}
    for module in MODULES:
        importlib.import_module(module)
    assert {name: getattr(parity, name) for name in parity.__all__} == public
    assert not any(inspect.ismodule(value) for value in public.values())
