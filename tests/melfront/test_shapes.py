"""Every shape comment in the package is right, and the checker finds wrong ones."""

import importlib.util

import numpy as np
import pytest
import torch

import melfront
from melfront import filterbank, oracle, variants
from melfront.backends import numpy_backend, steps, torch_backend, torch_constants
from tests import shapes
from tests.signals import compute

MODULES = (filterbank, oracle, variants, numpy_backend, steps, torch_backend, torch_constants)
FILES = [module.__file__ for module in MODULES]


def test_every_shape_comment():
    for cached in (filterbank.mel_filters, numpy_backend.bands, torch_constants.made_once):
        cached.cache_clear()
    rng = np.random.default_rng(1)
    # All sizes differ: 3 clips, 31 bins, 700 frames. 125 of them overlap a clip, less than a block.
    clips = [rng.uniform(-1, 1, n).astype(np.float32) for n in (2003, 19_789, 17_011)]

    def everything():
        oracle.log_mel(clips, n_mels=31, pad_to=7.0)
        for convention in ("transformers", "openai-transcribe", "faster-whisper"):
            options = {"n_mels": 31, "pad_to": 7.0, "convention": convention}
            variants.log_mel(clips, **options)
            compute(clips, "numpy", **options)
            tensors = [torch.from_numpy(clip) for clip in clips]
            melfront.log_mel(tensors, **options)
            same_length = torch.stack([tensor[:2003] for tensor in tensors])
            melfront.log_mel(same_length.to("meta"), **options)  # as on a GPU
            torch.vmap(melfront.LogMel(31, convention, pad_to=7.0))(same_length)
            tensors = [tensor.requires_grad_() for tensor in tensors]
            melfront.log_mel(tensors, **options).sum().backward()

    report = shapes.check(everything, FILES)
    assert not report.wrong, "\n".join(report.wrong)
    assert not report.unchecked, f"not reached: {report.unchecked}"
    assert len(report.checked) >= 15


def load(tmp_path, source: str):
    path = tmp_path / "subject.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("subject", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HEAD = "import numpy as np\n"


def run(tmp_path, body: str, call: str = "f") -> shapes.Report:
    module = load(tmp_path, HEAD + body)
    return shapes.check(getattr(module, call), [module.__file__])


@pytest.mark.parametrize(
    "body",
    [
        "def f():\n    x = np.ones((3, 5))  # (A, B)\n    return x.T  # (B, A)",
        "def f():\n    x = np.ones(6)  # (2K,)\n    y = np.ones((3, 7))  # (K, 2K + 1)\n",
        "def f():\n    x = np.ones((2, 3, 5))  # (..., 5)\n    x += 1  # (2, 3, 5) words\n",
        "def f():\n    for row in np.ones((3, 5)):  # (B,)\n        y = row * 2  # (B,)\n",
        "def f():\n    q, k = np.ones((2, 3, 5))  # (B, D) each\n    return [q, k]  # (3, D) each",
        "def f():\n    x = np.ones(\n        (3, 5)\n    )  # (3, 5)\n    return x\n",
        "def f():\n    d = {}\n    d['x'] = np.ones(\n        7)  # (7,)\n",
        "def f():\n    x = [np.ones(3) for _ in 'ab']  # (3,) each\n    y = np.array(x)  # (2, 3)",
        "def g():\n    yield np.ones((3, 5))  # (3, 5)\ndef f():\n    next(g())\n",
        "def g(n):\n    return np.ones(n)  # (N,)\ndef f():\n    g(3)\n    g(5)\n",
        "def f():\n    x = np.ones((3, 5)).sum(0)  # (A, B) -> (B,)\n    x = x.sum()  # ()\n",
    ],
)
def test_right_comments(tmp_path, body):
    report = run(tmp_path, body)
    assert report.wrong == []
    assert report.unchecked == []
    assert report.checked


@pytest.mark.parametrize(
    "body",
    [
        "def f():\n    x = np.ones((3, 5))  # (A, B)\n    return x.T  # (A, B)",
        "def f():\n    x = np.ones((3, 5))  # (3, 7)\n",
        "def f():\n    x = np.ones((3, 5))  # (3,)\n",
        "def f():\n    x = np.ones((3, 5))  # (A, A)\n",
        "def f():\n    x = np.ones(7)  # (2K,)\n",
        "def f():\n    x = np.ones((2, 3, 5))  # (..., 3)\n",
        "def f():\n    return np.ones(3), np.ones(5)  # (N,) each\n",
        "def f():\n    return np.ones(3), np.ones(3)  # (3,)\n",
        "def f():\n    return np.ones(\n        3\n    )  # (5,)\n",
        "def f():\n    x = np.ones(3)\n    for _ in range(2):\n        x = x.repeat(2)  # (6,)\n",
        "def f():\n    return 3.0  # (1,)\n",
        "def g():\n    yield np.ones(3)  # (2,)\ndef f():\n    next(g())\n",
    ],
)
def test_wrong_comment_is_found(tmp_path, body):
    report = run(tmp_path, body)
    assert len(report.wrong) == 1, report


def test_comment_that_is_not_reached_is_reported(tmp_path):
    body = (
        "def f():\n"
        "    if False:\n"
        "        x = np.ones(3)  # (5,)\n"
        "    try:\n"
        "        x = np.ones(3) + np.ones(5)  # (3,)\n"
        "    except ValueError:\n"
        "        pass\n"
    )
    report = run(tmp_path, body)
    assert report.wrong == []
    assert len(report.unchecked) == 2


def test_prose_comments_are_ignored(tmp_path):
    body = (
        "class C:\n"
        "    x: int = 3  # (B, N)\n"
        "def f():\n"
        "    # (A, B)\n"
        "    x = 3  # (and this, in short, is not one)\n"
        "    y = 4  # (x + 4) / 4\n"
    )
    report = run(tmp_path, body)
    assert report == shapes.Report()


@pytest.mark.parametrize("line", ["print(3)  # (3,)", "a, b = np.ones((2, 3))  # (3,)"])
def test_comment_that_cannot_be_checked_is_an_error(tmp_path, line):
    with pytest.raises(ValueError, match=r"subject\.py:3"):
        run(tmp_path, f"def f():\n    {line}\n")
