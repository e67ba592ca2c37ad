"""What is written by a command is what the command would write now."""

import re
from importlib import import_module

import pytest

from melfront.parity.mistakes import everything
from tests.project import readme_numbers
from tests.project.api_page import PACKAGES, PAGE, page


def test_the_api_page_is_of_these_docstrings():
    written = PAGE.read_text("utf-8")
    assert written == page(), "run python -m tests.project.api_page"
    assert " at 0x" not in written


def test_every_public_name_is_on_the_page():
    text = PAGE.read_text("utf-8")
    for package in PACKAGES:
        for name in import_module(package).__all__:
            assert re.search(rf"(?m)^(#+ [\w.]*|`)\b{name}\b", text), f"{package}.{name}"


def test_numbers_of_the_readme():
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


def test_every_mistake_is_named():
    """MISTAKES.md has no mistake without a signal that names it, nor one that is gone."""
    named = re.findall(
        r"(\d+) of (\d+) mistakes are named first and alone in at least one column",
        readme_numbers.read("parity/MISTAKES.md"),
    )
    assert len(named) == 2
    assert all(some == all_ for some, all_ in named)
    assert len(list(everything())) >= readme_numbers.mistakes()[0]
