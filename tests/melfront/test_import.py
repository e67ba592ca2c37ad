"""`import melfront` is fast, does not import torch, and exposes only public names."""

import inspect
import json
import pydoc
import re
import subprocess
import sys

import pytest

import melfront
from tests.conftest import CHECKOUT
from tests.signals import SAMPLE


def python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT
    )
    return result.stdout


def test_import_takes_at_most_200_ms():
    # CPU time, because wall time grows on a busy machine.
    code = "from time import process_time as t; a = t(); import melfront; print(t() - a)"
    python(code)  # writes the bytecode
    best = min(float(python(code)) for _ in range(5))
    assert best <= 0.2, f"{best:.3f} s"


def test_torch_is_not_imported():
    pytest.importorskip("soundfile")  # it loads a clip
    code = f"""
import json, sys, melfront
loaded = lambda: sorted({{"torch", "transformers", "librosa", "matplotlib"}} & set(sys.modules))
after_import = loaded()
clip = melfront.load_audio({str(SAMPLE)!r})
for convention in melfront.CONVENTIONS:
    melfront.log_mel(clip, convention=convention, return_mask=True)
    melfront.log_mel([clip, clip[:777]], convention=convention)
melfront.oracle.log_mel(clip)
print(json.dumps([after_import, loaded()]))
"""
    assert json.loads(python(code)) == [[], []]


def test_public_names():
    code = "import melfront; print([n for n in melfront.__all__ if not hasattr(melfront, n)])"
    assert python(code).strip() == "[]"
    code = "import melfront; print(set(dir(melfront)) ^ {*melfront.__all__, '__version__'})"
    assert python(code).strip() == "set()"
    code = "import melfront; melfront.nonsense"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT
    )
    assert "module 'melfront' has no attribute 'nonsense'" in result.stderr


def test_help_shows_only_public_names():
    text = pydoc.plain(pydoc.render_doc(melfront))
    assert all(name in text for name in melfront.__all__)
    assert "as_clips(" not in text
    assert "fit_length(" not in text


def public():
    functions = dict(inspect.getmembers(melfront, inspect.isfunction))
    functions |= {m.__name__: m.log_mel for m in (melfront.oracle, melfront.variants)}
    return functions


@pytest.mark.parametrize("name", public())
def test_public_function_documents_shapes_and_errors(name):
    text = inspect.getdoc(public()[name])
    assert re.search(r"\(([A-Z],? ?)+(, [0-9]+)?\)", text), text
    assert "aises " in text or name == "frame_mask", text
