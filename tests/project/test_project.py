"""The files that GitHub and pip read: workflow, citation, issue forms, metadata, versions."""

from __future__ import annotations

import os
import re
import shlex
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

import melfront.__main__
from tests.conftest import CHECKOUT
from tests.environments import pyproject

GITHUB = CHECKOUT / ".github"
FORMS = sorted(path.name for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
FORMS.remove("config.yml")
# GitHub's issue forms: the `attributes` that each type of element may have.
ATTRIBUTES = {
    "markdown": {"value"},
    "input": {"label", "description", "placeholder", "value"},
    "textarea": {"label", "description", "placeholder", "value", "render"},
    "dropdown": {"label", "description", "options", "multiple", "default"},
    "checkboxes": {"label", "description", "options"},
}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def texts(value: Any) -> list[str]:
    """Every string in a nested value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for child in value for text in texts(child)] if isinstance(value, list) else []


def test_workflow_runs_ci():
    workflow = read(GITHUB / "workflows" / "ci.yml")
    assert set(workflow[True]) == {"push", "pull_request", "workflow_dispatch"}  # True: YAML's `on`
    (job,) = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands[-1] == ".ci/run"
    for command in commands:
        program = shlex.split(command)[0]
        assert program == "git" or os.access(CHECKOUT / program, os.X_OK), command
    assert (CHECKOUT / ".ci" / "run").stat().st_mode & stat.S_IXOTH
    (version,) = re.findall(r"python:(\d+\.\d+)", job["container"])
    assert f"(CPython {version}, Linux)" in (CHECKOUT / "constraints.txt").read_text("utf-8")
    for step in job["steps"]:
        assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "a/b@v1"))


def test_citation_matches_pyproject():
    citation = read(CHECKOUT / "CITATION.cff")
    project = pyproject()["project"]
    assert set(citation) >= {"cff-version", "message", "title", "authors"}  # required by the format
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == project["version"] == melfront.__version__
    assert citation["license"] == project["license"]
    assert citation["authors"] == project["authors"]
    assert citation["keywords"] == project["keywords"]


def test_forms_require_what_a_maintainer_needs():
    assert FORMS == ["bug.yml", "kernel.yml", "port.yml"]
    required = {
        name: {
            element["id"]
            for element in read(GITHUB / "ISSUE_TEMPLATE" / name)["body"]
            if element.get("validations", {}).get("required")
        }
        for name in FORMS
    }
    assert {"command", "report", "dump", "versions"} <= required["port.yml"]
    assert {"kernel", "command", "report"} <= required["kernel.yml"]
    assert {"code", "output", "expected", "versions"} <= required["bug.yml"]


@pytest.mark.parametrize("name", FORMS)
def test_form_is_valid_for_github(name):
    form = read(GITHUB / "ISSUE_TEMPLATE" / name)
    assert set(form) == {"name", "description", "labels", "body"}
    ids = [element["id"] for element in form["body"] if element["type"] != "markdown"]
    labels = [e["attributes"]["label"] for e in form["body"] if e["type"] != "markdown"]
    assert len(set(ids)) == len(ids) == len(set(labels))
    for element in form["body"]:
        assert set(element["attributes"]) <= ATTRIBUTES[element["type"]], element
        assert set(element) <= {"type", "id", "attributes", "validations"}


@pytest.mark.parametrize("name", FORMS)
def test_commands_in_a_form_exist(name, capsys):
    """Every command that a form quotes has the quoted subcommands and options."""
    text = "\n".join(texts(read(GITHUB / "ISSUE_TEMPLATE" / name)))
    commands = re.findall(r"(?m)(?:^ *|`)melfront ([a-z][^`\n]*)", text)
    assert commands
    known = ""
    for command in commands:
        words = shlex.split(command)
        depth = 2 if words[0] in ("parity", "benchmarks") else 1
        with pytest.raises(SystemExit) as end:
            melfront.__main__.main([*words[:depth], "--help"])
        assert end.value.code == 0, command
        known += (shown := capsys.readouterr().out)
        for option in re.findall(r"(?<!\S)--?[a-z][\w-]*", command):
            assert re.search(rf"(?<![\w-]){option}\b", shown), command
    for option in re.findall(r"`(--[\w-]+)", text):
        assert re.search(rf"(?<![\w-]){option}\b", known), option


def test_the_description_shows_its_links_anywhere():
    """A package index shows this page alone, at another address: relative links lead nowhere."""
    project = pyproject()["project"]
    page = (CHECKOUT / project["readme"]).read_text("utf-8")
    targets = re.findall(r"\]\(([^)]*)\)|(?:src|href)=\"([^\"]*)", page)
    targets += [(url, "") for url in project["urls"].values()]
    assert targets
    for target in targets:
        assert "".join(target).startswith(("https://", "#")), target


def test_versions_agree():
    (version,) = re.findall(
        r'^version = "(.*)"$', (CHECKOUT / "pyproject.toml").read_text("utf-8"), flags=re.MULTILINE
    )
    assert version == melfront.__version__
    assert f"## [{version}]" in (CHECKOUT / "CHANGELOG.md").read_text("utf-8")


def pins(file: str) -> dict[str, str]:
    return dict(
        re.findall(r"^([\w-]+)==(\S+)$", (CHECKOUT / file).read_text("utf-8"), flags=re.MULTILINE)
    )


def test_lower_bounds_are_those_that_ci_runs():
    """Every requirement has a lower bound, and constraints-lowest.txt pins exactly that version."""
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    wanted = [project["dependencies"], *extras.values()]
    wanted = [line for lines in wanted for line in lines if not line.startswith("melfront[")]
    bounds = dict(re.sub(r"\[.*]", "", requirement).split(">=") for requirement in wanted)
    # noxfile.py's session `oldest` has the oldest of these three, which go together.
    oldest, lowest = (CHECKOUT / "noxfile.py").read_text("utf-8"), pins("constraints-lowest.txt")
    for name in ("torch", "transformers", "huggingface_hub"):
        assert f'"{name}=={bounds[name]}.*"' in oldest, name
        assert lowest[name] != bounds[name], "the exception is not needed"
        lowest[name] = bounds[name]
    assert lowest == bounds
    others = pins("constraints-newest.txt")
    assert set(bounds) - set(others) == {"mypy", "ruff"}, "both only check the source"
    assert set(others) <= set(bounds)
