"""Generated pages are up to date."""

import re
from importlib import import_module

import pytest

from melfront.parity.mistakes import everything
from tests.project import readme_numbers
from tests.project.api_page import PACKAGES, PAGE, page


def test_api_page_is_up_to_date():
    written = PAGE.read_text("utf-8")
    assert written == page(), "run python -m tests.project.api_page"
    assert " at 0x" not in written


def test_every_public_name_is_on_the_api_page():
    text = PAGE.read_text("utf-8")
    for package in PACKAGES:
        for name in import_module(package).__all__:
            assert re.search(rf"(?m)^(#+ [\w.]*|`)\b{name}\b", text), f"{package}.{name}"


def test_numbers():
    """The command writes every one of them, whatever it finds there."""
    readme = readme_numbers.read("README.md")
    assert readme_numbers.rewritten(readme) == readme, "run python -m tests.project.readme_numbers"
    for pattern, numbers in readme_numbers.NUMBERS:
        found = re.search(pattern.replace(" ", r"\s+"), readme, flags=re.DOTALL)
        assert len(found.groups()) == len(numbers())
        for group in range(1, len(found.groups()) + 1):
            stale = f"{readme[: found.start(group)]}7{readme[found.end(group) :]}"
            assert stale != readme
            assert readme_numbers.rewritten(stale) == readme, found[0]


def test_a_number_needs_its_sentence():
    readme = readme_numbers.read("README.md").replace("The encoder in torch", "In torch it")
    with pytest.raises(ValueError, match="no sentence"):
        readme_numbers.rewritten(readme)


def test_page_names_every_mistake():
    """Every mistake on the page is named, and the catalogue has at least as many."""
    named = re.findall(
        r"(\d+) of (\d+) mistakes are named first and alone in at least one column",
        readme_numbers.read("parity/MISTAKES.md"),
    )
    assert len(named) == 2
    assert all(some == total for some, total in named)
    assert len(list(everything())) >= readme_numbers.mistakes()[0]
