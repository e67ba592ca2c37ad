"""The site is built without a warning, makes no request, and the notebook runs."""

import re
import subprocess
import sys

import pytest
import yaml

from tests.conftest import CHECKOUT

NOTEBOOK = CHECKOUT / "docs" / "tour.ipynb"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material", reason="no mkdocs-material: pip install -e '.[test]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", "docs/mkdocs.yml"]
    done = subprocess.run(
        [*command, "-d", folder], cwd=CHECKOUT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_link_and_anchor_is_there(site):
    """mkdocs has checked those of the text, as --strict says; of the rest, each file."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 12
    for page in pages:
        if page.name == "404.html":
            continue
        for target in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text("utf-8")):
            if not target.startswith(("data:", "https:", "http:", "mailto:", "javascript:")):
                found = (page.parent / target).resolve()
                assert found.exists(), f"{page.relative_to(site)}: {target}"


def test_nothing_is_asked_of_others(site):
    """No script, style, font or picture comes from another server."""
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert not re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="https?:', text), page
    for style in site.rglob("*.css"):
        assert "url(http" not in style.read_text("utf-8"), style


def test_the_page_to_learn_from_is_live(site):
    text = (site / "tour.html").read_text("utf-8")
    assert "What Whisper hears" in text
    assert (site / "melfront.js").read_text("utf-8") in text


def test_pages_are_built_by_the_command_that_the_readme_gives():
    workflow = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "pages.yml").read_text("utf-8"))
    build, deploy = workflow["jobs"].values()
    (command,) = re.findall("`(mkdocs build .*)`", (CHECKOUT / "README.md").read_text("utf-8"))
    assert [step["run"] for step in build["steps"] if step.get("name") == "Build"] == [
        f".venv/bin/{command}"
    ]
    assert command.endswith(f"-d ../{build['steps'][-1]['with']['path']}")  # seen from docs/
    assert deploy["needs"] == "build"


@pytest.mark.parametrize("model", ["formula:tiny/128", pytest.param(None, marks=pytest.mark.slow)])
def test_the_notebook_runs(model, tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="no nbformat: pip install -e '.[test]'")
    nbclient = pytest.importorskip("nbclient", reason="no nbclient: pip install -e '.[test]'")
    book = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells)
    for cell in book.cells:
        if model:
            cell.source = re.sub('MODEL = "[^"]*"', f'MODEL = "{model}"', cell.source)
    nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    printed = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    assert "129600 samples at 16 kHz = 8.1 s" in printed
    assert "features (1, 128, 3000), of which the mask counts 810 frames" in printed
    states = "(1, 1500, 384), 5 of them" if model else "(1, 1500, 1280), 33 of them"
    assert f"hidden states {states}" in printed
    assert "one position is 20.0 ms" in printed
    shown = [o.data for o in outputs if o.output_type == "execute_result"]
    assert sum("image/png" in data for data in shown) == 1
    reports = [data["text/html"] for data in shown if "text/html" in data]
    assert len(reports) == 7
    for report, words in zip(
        reports,
        [
            "zero padding",
            "2 of 3000 frames",
            "log       WRONG",
            "clip 1",
            "tanh GELU",
            "block.0.attn.weights   PASS",
            "49 of 50 positions bad",
        ],
        strict=True,
    ):
        assert words in report
