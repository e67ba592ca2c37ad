"""`melfront encoder export`: its files, that they need no Python, and its refusals."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import melfront.parity.__main__
from melfront.encoder import __main__
from melfront.encoder.export import cli
from melfront.parity import signals
from tests.conftest import CHECKOUT
from tests.encoder.export.runtimes import load, padded

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
TOY = ("--model", "formula:toy")


def export(*words) -> int:
    try:
        return __main__.main(["export", *map(str, words)])
    except SystemExit as stop:
        return stop.code


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """The toy as toy.onnx and as toy.pt2: the path of the first."""
    file = tmp_path_factory.mktemp("files") / "toy.onnx"
    for out in (file, file.with_suffix(".pt2")):
        assert export(*TOY, "--hidden-states", "-o", out) == 0
    return file


def given() -> np.ndarray:
    return padded([signals.load("toy")], 3520)


def test_prints_one_line(tmp_path, capfd):
    """Nothing of what torch says while it exports."""
    out = tmp_path / "front_end.onnx"
    assert export("--part", "front-end", "-o", out) == 0
    assert capfd.readouterr() == (f"written to {out}: log_mel\n", "")


def test_onnx_file(files):
    """Standard operators, names and a free batch; who made it, and not where."""
    model = onnx.load(files)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert not {"DFT", "STFT"} & {node.op_type for node in model.graph.node}
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch", value
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert about["model"] == "formula:toy"
    assert about["dtype"] == "float32"
    assert about["convention"] == "transformers"
    assert about["melfront"] == melfront.__version__
    assert str(CHECKOUT).encode() not in files.read_bytes()


def test_torch_export_file_needs_no_melfront(files, tmp_path):
    """Loaded where melfront cannot be imported, it computes the same."""
    file = files.with_suffix(".pt2")
    np.save(tmp_path / "given.npy", given())
    code = (
        "import sys; sys.modules['melfront'] = sys.modules['encoder'] = None\n"
        "import numpy, torch\n"
        f"module = torch.export.load({str(file)!r}).module()\n"
        "out = module(torch.from_numpy(numpy.load('given.npy')))\n"
        "numpy.savez('out.npz', **{name: x.numpy() for name, x in out.items()})\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    expected = load("torch", file)(given())
    with np.load(tmp_path / "out.npz") as result:
        assert set(result.files) == set(expected)
        for name in expected:
            np.testing.assert_array_equal(result[name], expected[name])
    with zipfile.ZipFile(file) as archive:
        (about,) = [name for name in archive.namelist() if name.endswith("metadata.json")]
        assert json.loads(archive.read(about))["model"] == "formula:toy"


def test_compared_at_the_command_line(files, tmp_path, capsys):
    """What onnxruntime gives, saved under its own names."""
    np.savez(tmp_path / "mine.npz", **load("onnxruntime", files)(given()))
    words = ["compare", str(tmp_path / "mine.npz"), "--audio", "signal:toy", *TOY]
    assert melfront.parity.__main__.main(words) == 0
    assert "all 4 stages PASS" in capsys.readouterr().out


def test_large_weights_beside_the_graph(tmp_path, monkeypatch, capsys, files):
    """A file beside it, which the graph finds where the two are moved together."""
    monkeypatch.setattr("melfront.encoder.export.write.MOST_BYTES", 0)
    out = tmp_path / "toy.onnx"
    assert export(*TOY, "--hidden-states", "-o", out) == 0
    assert capsys.readouterr().out.startswith(f"written to {out} and {out}.data: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.onnx", "toy.onnx.data"]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in (out, out.with_name("toy.onnx.data")):
        path.rename(moved / path.name)
    inside, beside = load("onnxruntime", files)(given()), load("onnxruntime", moved / "toy.onnx")
    for name, x in beside(given()).items():
        np.testing.assert_array_equal(x, inside[name])


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".onnx", ".pt2"])
def test_full_disk_keeps_the_old_file(ending, tmp_path):
    out = tmp_path / f"toy{ending}"
    out.write_bytes(b"old")
    code = (
        "import resource, signal, sys; from melfront.encoder.__main__ import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (99_999, 99_999))\n"
        f"sys.exit(main(['export', '--model', 'formula:toy', '-o', {str(out)!r}]))"
    )
    options = {"cwd": CHECKOUT, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", code], **options)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "File too large" in done.stderr
    assert os.listdir(tmp_path) == [out.name]
    assert out.read_bytes() == b"old"


REFUSED = [
    ("-o x.bin", "-o x.bin: expected a file that ends in .onnx or .pt2"),
    ("-o x.onnx --format torch-export", "-o x.onnx: expected a file that ends in .pt2"),
    ("-o none/x.onnx", "no such folder"),
    ("-o x.onnx --model nosuch", "--model nosuch: no such file or folder"),
    ("-o x.onnx --model formula:nosuch", "unknown built-in encoder"),
    ("-o x.onnx --n-mels 80", "the model has its own number"),
    ("-o x.onnx --part front-end --n-mels 0", "--n-mels 0: expected a number of mel bins"),
    ("-o x.onnx --part front-end --dtype float16", "1e-10, its least power, is 0 in float16"),
    ("-o x.onnx --part front-end --model tiny", "--part front-end has no encoder"),
    ("-o x.onnx --part front-end --hidden-states", "--part front-end has no encoder"),
    ("", "the following arguments are required: -o"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_refusals(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert export(*words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("melfront encoder export: ")
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


def test_missing_onnxscript(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "find_spec", lambda _name: None)
    assert export("-o", tmp_path / "x.onnx") == 2
    assert "pip install 'melfront[export]'" in capsys.readouterr().err
