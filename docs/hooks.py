"""Makes the pages of the site of the READMEs and of what commands write: for `mkdocs.yml`.

A link to a file that is a page here leads to that page; of a link to any other file of the
repository, the text stays.
"""

from __future__ import annotations

import os
import posixpath
import re
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
MODEL = os.environ.get("MODEL", "formula:tiny")  # of the page to learn from; a name on the Hub

# page -> the file that it is made of, and from which heading to which other, if not all of it
PAGES = {
    "index.md": ("README.md", "# melfront", "## Test it"),
    "port.md": ("README.md", "## Check a port", "## Bring a kernel"),
    "parity.md": ("parity/README.md", "", ""),
    "mistakes.md": ("parity/MISTAKES.md", "", ""),
    "differ.md": ("parity/LIBRARIES.md", "", ""),
    "kernel.md": ("README.md", "## Bring a kernel", "## Use it inside"),
    "harness.md": ("benchmarks/README.md", "", ""),
    "kernels.md": ("benchmarks/KERNELS.md", "", ""),
    "wrong.md": ("README.md", "## What people get wrong", "## Read the source"),
    "elsewhere.md": ("docs/libraries.md", "", ""),
    "javascript.md": ("web/README.md", "", ""),
    "api.md": ("docs/api.md", "", ""),
}
WHOLE = {source: page for page, (source, start, _) in PAGES.items() if not start}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    pictures: set[str] = set()
    for page, (source, start, end) in PAGES.items():
        text = (ROOT / source).read_text("utf-8")
        first = text.index(start)
        text = text[first : text.index(end, first) if end else None]
        if start.startswith("## "):
            text = re.sub("^##", "#", text, flags=re.MULTILINE)
        text = relinked(text, posixpath.dirname(source), pictures)
        files.append(File.generated(config, page, content=text))
    for picture in sorted(pictures):
        files.append(File.generated(config, picture, content=(ROOT / picture).read_bytes()))
    files.append(File.generated(config, "notebook.md", content=notebook()))
    files.append(File.generated(config, "tour.html", content=tour()))
    files.append(File.generated(config, "melfront.js", abs_src_path=str(ROOT / "web/melfront.js")))
    return files


def relinked(text: str, folder: str, pictures: set[str]) -> str:
    """Markdown of a file in that folder, with links of the site; notes the pictures it shows."""

    def link(found: re.Match[str]) -> str:
        mark, shown, target = found.groups()
        path, hash_, anchor = target.partition("#")
        if not path or "://" in path:
            return found[0]
        name = posixpath.normpath(posixpath.join(folder, path))
        if mark:
            pictures.add(name)
            return f"![{shown}]({name})"
        name = name if (ROOT / name).is_file() else posixpath.join(name, "README.md")
        return f"[{shown}]({WHOLE[name]}{hash_}{anchor})" if name in WHOLE else shown

    return LINK.sub(link, text)


def notebook() -> str:
    """docs/tour.ipynb as a page: its text and its code."""
    import json

    cells = json.loads((ROOT / "docs/tour.ipynb").read_text("utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(parts) + "\n"


def tour() -> str:
    """The report of the sample clip."""
    from melfront.encoder.__main__ import main

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tour.html"
        if main(["sample", "--model", MODEL, "--report", str(file)]):
            raise SystemExit(f"no report with the model {MODEL}")
        return file.read_text("utf-8")
