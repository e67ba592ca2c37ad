"""Every file of the table of hostile inputs gets its error: one line, soon, in little memory."""

from __future__ import annotations

import os
import socket
import tracemalloc

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from melfront import parity
from melfront.parity.comparison.accept import accepted_units
from melfront.parity.files.by_stage import by_stage
from melfront.parity.files.tensors import read
from melfront.parity.stages import ParityError
from tests.parity.commands import FEATURES, SPEECH, assert_one_line
from tests.parity.files.hostile import FILES, KINDS, UNITS, WHOLE

MOST = 100 << 20  # bytes of memory for what is refused


def assert_fits_a_terminal(line):
    assert len(line) <= 1000
    assert line.isprintable()


@pytest.mark.parametrize("kind", FILES)
def test_file_is_refused(run, tmp_path, kind):
    name, content, words = FILES[kind]
    path = tmp_path / name
    path.write_bytes(content() if callable(content) else content)
    del content
    tracemalloc.start()
    try:
        result = run("compare", path)
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()
    assert_one_line(result, words)
    assert_fits_a_terminal(result[2].rstrip("\n"))


@pytest.mark.parametrize("kind", FILES)
def test_folder_and_reference_are_refused(run, tmp_path, right, kind):
    """As a member of a folder, and where a REFERENCE is expected."""
    name, content, words = FILES[kind]
    if callable(content):
        pytest.skip("large: once is enough")
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / name
    path.write_bytes(content)
    assert_one_line(run("compare", right, path), words)
    if path.suffix in (".npy", ".bin"):
        assert_one_line(run("compare", path.parent), words)


@pytest.mark.parametrize("suffix", ["npz", "npy", "safetensors", "json", "txt", "f32"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused(run, tmp_path, right, kind, suffix):
    make, words = KINDS[kind]
    path = tmp_path / f"features.{suffix}"
    make(path)
    assert_one_line(run("compare", path), "features.", words)
    assert_one_line(run("compare", right, path), "features.", words)
    assert_one_line(run("compare", right, "--accept", path), "features.", words)


def test_members_of_a_folder_that_are_no_files(run, tmp_path):
    (tmp_path / "folder").mkdir()
    for name, (make, _) in KINDS.items():
        path = tmp_path / "folder" / "features.npy"
        make(path)
        assert_one_line(run("compare", path.parent), "features.npy"), name
        path.rmdir() if path.is_dir() else path.unlink()
    np.save(tmp_path / "folder" / "features.npy", FEATURES)
    (tmp_path / "folder" / "features.f32").write_bytes(FEATURES.tobytes())
    assert_one_line(run("compare", tmp_path / "folder"), "'features' is in it twice")


def test_socket_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("a.npz")
        assert_one_line(run("compare", "a.npz"), "no regular file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(run, tmp_path):
    for name in ("a.npz", "a.npy", "a.safetensors", "a.json", "a.f32"):
        (tmp_path / name).write_bytes(b"x" * 40)
        (tmp_path / name).chmod(0)
        assert_one_line(run("compare", tmp_path / name), name, "Permission denied")


@pytest.mark.parametrize("kind", UNITS)
def test_units_are_refused(run, tmp_path, right, kind):
    content, words = UNITS[kind]
    (tmp_path / "units.json").write_bytes(content)
    result = run("compare", right, "--accept", tmp_path / "units.json")
    assert_one_line(result, words)
    assert_fits_a_terminal(result[2].rstrip("\n"))


TENSORS = {
    "sparse": lambda x: x.to_sparse(),
    "compressed": lambda x: x.to_sparse_csr(),
    "meta": lambda x: x.to("meta"),
    "nested": lambda x: torch.nested.nested_tensor([x, x[:3]]),
    "quantised": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    "a model": lambda _: torch.nn.Linear(1, 1),
    "ragged": lambda _: [[1.0], [1.0, 2.0]],
}


@pytest.mark.filterwarnings("ignore")  # torch's, of what is new in it
@pytest.mark.parametrize("kind", TENSORS)
def test_tensor_is_refused(kind):
    tensor = TENSORS[kind](torch.from_numpy(FEATURES.copy()))
    with pytest.raises(ParityError, match=r"features: (no array|dtype)") as raised:
        parity.compare({"features": tensor}, audio=SPEECH)
    assert_fits_a_terminal(str(raised.value))


def test_lazy_conjugate_is_read():
    spectrum = torch.from_numpy(parity.trace(SPEECH, pad_to=None)["spectrum"])
    twice = {"spectrum": spectrum.conj().resolve_conj().conj()}
    assert parity.compare(twice, audio=SPEECH, pad_to=None).ok


# --- numbers of no stage --------------------------------------------------------------------------

NOISE = np.random.default_rng(3).normal(size=FEATURES.shape)
GARBAGE = {
    "1e38": np.full_like(FEATURES, 1e38),
    "noise of 1e37": (1e37 * NOISE).astype(np.float32),
    "1e200": 1e200 * NOISE,
    "one value": np.where(np.arange(2960).reshape(80, 37) == 99, np.float32(3e38), FEATURES),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_told_without_a_search(monkeypatch, kind):
    """Not by running the catalogue, which takes seconds, and 20 s of a whole window."""

    def never(*_):
        raise AssertionError

    monkeypatch.setattr("melfront.parity.diagnosis.diagnose.try_front_end", never)
    report = parity.compare({"features": GARBAGE[kind]}, audio=SPEECH, pad_to=None)
    (stage,) = report.stages
    assert stage.verdict == "WRONG"
    assert "beyond 1e+30, up to" in stage.notes[0]
    assert "counted as infinite" in str(report)
    if kind == "one value":
        assert stage.worst.startswith("mel 2, frame 25")
        assert "1 of 2960 values is beyond" in str(report)


def test_large_numbers_of_a_stage_are_no_garbage():
    """int32 samples left as they are: the powers are of 1e20."""
    truth = parity.trace(SPEECH, n_mels=80, pad_to=None)["power"]
    report = parity.compare({"power": truth * 2.0**62}, audio=SPEECH, pad_to=None)
    assert "garbage" not in str(report)
    assert "times the truth" in str(report)


def test_offset_beyond_all_powers_of_ten_is_told():
    report = parity.compare({"features": FEATURES + np.float32(1e10)}, audio=SPEECH, pad_to=None)
    assert not report.ok


def test_empty_tensor_is_not_diagnosed():
    for shape in ((0, 37), (80, 0), (0,)):
        report = parity.compare({"features": np.zeros(shape, "f4")}, audio=SPEECH, pad_to=None)
        assert report.stages[0].verdict in ("SHAPE", "WRONG")


def test_left_out_names_are_cut(run, tmp_path, clip):
    names = ("n" * 5000, "encoder_" * 4000 + "x", "\x1b[31m", "a_" * 9000 + "weight")
    np.savez(tmp_path / "a.npz", features=FEATURES, **dict.fromkeys(names, FEATURES))
    status, out, err = run("compare", tmp_path / "a.npz", "--audio", clip, "--pad-to", "none")
    assert (status, err) == (0, "")
    left_out = [line for line in out.splitlines() if line.startswith("left out")]
    assert len(left_out) == len(names)
    assert all(len(line) < 200 and line.isprintable() for line in left_out)


# --- random damage --------------------------------------------------------------------------------


@st.composite
def damaged(draw):
    """A file that was whole, with up to 9 bytes changed, and its end perhaps cut off."""
    name = draw(st.sampled_from(sorted(WHOLE)))
    content = bytearray(WHOLE[name])
    near = st.integers(0, min(len(content), 400) - 1)  # where the headers are
    back = st.integers(max(0, len(content) - 300), len(content) - 1)  # a zip's directory
    for _ in range(draw(st.sampled_from([1, 1, 2, 9]))):
        place = draw(st.one_of(near, near, back, st.integers(0, len(content) - 1)))
        syntax = st.sampled_from(list(b"[](){}:,'\"0e-."))
        content[place] = draw(
            st.one_of(syntax, st.just(content[place] ^ 1 << draw(st.integers(0, 7))))
        )
    end = draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    return name, bytes(content[:end])


def read_or_refuse(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    try:
        by_stage(read(path), 2)
    except ParityError as error:
        assert_fits_a_terminal(str(error))
    if path.suffix == ".json":
        try:
            accepted_units(path, [], 2)
        except ParityError as error:
            assert_fits_a_terminal(str(error))


@given(file=damaged())
@settings(max_examples=400, suppress_health_check=[*HealthCheck])
def test_damaged_file_is_read_or_refused_in_one_line(tmp_path_factory, file):
    read_or_refuse(tmp_path_factory.getbasetemp(), *file)


@pytest.mark.slow
@given(file=damaged())
@settings(max_examples=20_000, suppress_health_check=[*HealthCheck])
def test_damaged_file_is_read_or_refused_at_length(tmp_path_factory, file):
    read_or_refuse(tmp_path_factory.getbasetemp(), *file)
