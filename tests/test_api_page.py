"""docs/api.md is what the docstrings say."""

import re

from tests.api_page import PACKAGES, PAGE, page


def test_the_page_is_of_these_docstrings():
    written = PAGE.read_text("utf-8")
    assert written == page(), "run python -m tests.api_page"
    assert " at 0x" not in written


def test_every_public_name_is_on_the_page():
    from importlib import import_module

    text = PAGE.read_text("utf-8")
    for package in PACKAGES:
        for name in import_module(package).__all__:
            assert re.search(rf"(?m)^(#+ [\w.]*|`)\b{name}\b", text), f"{package}.{name}"
