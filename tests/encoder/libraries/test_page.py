"""Every block of docs/libraries.md runs, and prints the output shown below it.

A block runs in a temporary folder with `speech.flac`, the sample clip, and, where the block names
it, with the trained model openai/whisper-tiny.en, which a reader would download.
"""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from melfront.audio import SAMPLE
from tests.conftest import SHARED
from tests.project.test_readme import Block, assert_prints, blocks

PAGE = "docs/libraries.md"
TRAINED = "openai/whisper-tiny.en"
# Packages of which a block is skipped where they are not installed.
OPTIONAL = (
    "datasets",
    "faster_whisper",
    "onnxruntime",
    "openvino",
    "ray",
    "transformers",
    "whisper",
)
SLOW = ("ray",)  # such blocks take over 10 s


def params() -> list:
    return [
        pytest.param(
            block,
            id=block.title,
            marks=[pytest.mark.slow] if any(word in block.text for word in SLOW) else [],
        )
        for block in blocks(PAGE)
        if block.language == "python"
    ]


@pytest.mark.parametrize("block", params())
def test_block(block: Block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for package in OPTIONAL:
        if re.search(rf"\b(import|from) {package}\b", block.text):
            pytest.importorskip(package)
    Path("speech.flac").symlink_to(SAMPLE)
    if TRAINED in block.text:
        trained = SHARED / Path(TRAINED).name
        if not trained.is_dir():
            pytest.skip(f"{trained.name} is missing; MELFRONT_SHARED names its folder")
        Path(TRAINED).parent.mkdir()
        Path(TRAINED).symlink_to(trained)
    if "__main__" in block.text:  # it starts processes, which import the file
        Path("script.py").write_text(block.text)
        done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    else:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block.text, block.title, "exec"), {})
        printed = out.getvalue()
    assert_prints(block.shown, printed)
