"""MLX's `weights.npz` and `weights.safetensors` are read."""

import io
import json
import struct
import zipfile

import numpy as np
import pytest
import torch

from melfront.encoder.checkpoint import load, mlx
from melfront.encoder.formula import sinusoids
from tests.encoder.checkpoint.checkpoints import (
    HF,
    NARROW,
    OPENAI,
    SQUARE,
    assert_same,
    dims,
    make,
    refuses,
    renamed,
    under,
    write,
)
from tests.encoder.checkpoint.foreign.test_ggml import garble


def mlx_tensors(dtype=torch.float16, positions=False):
    """As mlx-whisper's convert.py makes them of openai-whisper's."""
    tensors = {}
    for name, tensor in renamed(make(SQUARE, dtype), OPENAI, "encoder.").items():
        if name.startswith(("decoder", "encoder")) and (positions or "positional" not in name):
            theirs = name.replace("mlp.0", "mlp1").replace("mlp.2", "mlp2")
            is_conv = "conv" in name and tensor.ndim == 3
            tensors[theirs] = tensor.swapaxes(1, 2).contiguous() if is_conv else tensor
    return tensors | {"alignment_heads": torch.zeros(2, 2, dtype=torch.int64)}


def npz(tensors, save=np.savez):
    file = io.BytesIO()
    save(
        file,
        **{name: x.numpy() if isinstance(x, torch.Tensor) else x for name, x in tensors.items()},
    )
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    about = dims(SQUARE) | {"n_text_state": 26, "model_type": "whisper"}
    (tmp_path / "config.json").write_text(json.dumps(about))
    return tmp_path


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.npz"])
def test_mlx(folder, file, caplog):
    path = folder / file
    tensors = mlx_tensors()
    if path.suffix == ".npz":
        path.write_bytes(npz(tensors))
    else:
        write(path, tensors)
    config, weights = load(folder)
    assert config == SQUARE
    assert caplog.messages == [
        f"{path} has no positions: computed in float32, as MLX does, 1e-4 apart by machine"
    ]
    positions = weights["positions"]
    # Angles up to 10, rounded a few times: 4 ulp of 16.
    assert abs(positions.double().numpy() - sinusoids(11, 26)).max() <= 4 * 2.0**-20
    assert_same(weights, make(SQUARE, torch.float16) | {"positions": positions})
    assert_same(load(path)[1], weights)
    (folder / "config.json").unlink()
    refuses(folder, "no tensor for 'positions', and no config.json")


def test_positions_as_openai_computes_them():
    whisper = pytest.importorskip("whisper")
    ours = mlx.sinusoids(1500, 384).double()
    truth = torch.from_numpy(sinusoids(1500, 384))
    theirs = whisper.model.sinusoids(1500, 384).double()
    # Both round angles of up to 1500 in float32, and differ from the truth by as much.
    assert not (ours - truth).abs().max() > 2 * (theirs - truth).abs().max()


def test_npz_with_positions_and_the_first_axis_fastest(folder):
    tensors = mlx_tensors(torch.float32, positions=True)
    arrays = {name: np.asfortranarray(tensor.numpy()) for name, tensor in tensors.items()}
    (folder / "weights.npz").write_bytes(npz(arrays))
    assert_same(load(folder)[1], make(SQUARE))


@pytest.mark.parametrize("column", [HF, OPENAI], ids=["hf", "openai"])
def test_convolutions_in_mlx_layout_under_other_names(tmp_path, column):
    tensors = under("audio_tower.", make(), column)
    for name in ("audio_tower.conv1.weight", "audio_tower.conv2.weight"):
        tensors[name] = tensors[name].swapaxes(1, 2).contiguous()
    assert_same(load(write(tmp_path / "a.safetensors", tensors, NARROW))[1], make())


def test_quantised_mlx(folder):
    tensors = mlx_tensors()
    name = "encoder.blocks.0.attn.query."
    tensors[name + "scales"] = tensors[name + "biases"] = torch.zeros(26, 1)
    tensors[name + "biases"] = torch.zeros(26, 1)
    write(folder / "weights.safetensors", tensors)
    refuses(folder, "weights quantised by MLX: give the repository without -4bit or -8bit")


def test_hostile_npz(tmp_path):
    path = tmp_path / "a.npz"

    def member(shape, data=b"", **change):
        file = io.BytesIO()
        about = {"descr": "<f4", "fortran_order": False, "shape": shape} | change
        np.lib.format.write_array_header_1_0(file, about)
        return file.getvalue() + data

    def write_members(*members):
        with zipfile.ZipFile(path, "w") as file:
            for i, data in enumerate(members):
                file.writestr(f"encoder.{i}.npy", data)

    for shape in ((1 << 60,), (1 << 31, 1 << 31), (3,), ()):
        write_members(member(shape, bytes(8)))
        refuses(path, f"{path} is cut", "(encoder.0.npy is not as long as it says")
    objects = member((1,), bytes(8), descr="|O")
    for data in (objects, b"\x93NUMPY\x03\0" + b"\xff" * 4 + bytes(50), b"nothing", b""):
        write_members(data)
        refuses(path, f"{path} is cut", "(encoder.0.npy is not an array of numbers")
    path.write_bytes(npz(mlx_tensors(), np.savez_compressed))
    refuses(path, "a.npz is cut", "(its arrays are compressed: write it with np.savez)")

    whole = npz(mlx_tensors())
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refuses(path, "is empty" if not size else "cut short, damaged, or not an npz file")


def test_npz_that_claims_more_than_it_has(tmp_path):
    """In the array's header and in the index alike; or an index that fills the memory."""
    path, whole = tmp_path / "a.npz", bytearray(npz({"a": np.zeros(1 << 20, "f4")}))
    entry = whole.index(b"PK\1\2")
    lost = (4 << 20) - 9999  # of its numbers; zipfile reads the first 4096
    short = whole[: entry - lost] + whole[entry:]
    place = short.index(b"PK\5\6") + 16
    short[place : place + 4] = struct.pack("<I", entry - lost)
    path.write_bytes(short)
    refuses(path, "not an npz file (its members overlap)")
    with zipfile.ZipFile(path, "w") as file:  # an index of 5 MB
        for i in range(80):
            member = zipfile.ZipInfo(f"{i}.npy")
            member.comment = bytes(65_000)
            file.writestr(member, whole[:entry][-200:])
    refuses(path, "damaged, or not an npz file (an index of more than 4194304 bytes)")


def test_npz_within_an_npz(tmp_path):
    """The bytes of one array are, to the index, another array: memory for the size of a file."""
    inner, outer = npz({"b": np.ones(3900, "f4")}), npz({"a": np.zeros(4000, "f4")})
    index = inner.index(b"PK\1\2")
    entry = inner[index : inner.index(b"PK\5\6")]
    begin, end = outer.index(b"PK\1\2"), outer.index(b"PK\5\6")
    start = begin - 16_000  # of a's numbers
    data = outer[:start] + inner[:index].ljust(16_000, b"\0")
    data = bytearray(data + outer[begin:end] + entry[:42] + struct.pack("<I", start) + entry[46:])
    data += outer[end : end + 8]
    data += struct.pack("<HHIIH", 2, 2, end - begin + len(entry), begin, 0)
    # zipfile reads 4096 bytes at a time, so it has not seen that the checksum of a is wrong.
    path = tmp_path / "a.npz"
    path.write_bytes(data)
    refuses(path, "not an npz file (its members overlap)")


def test_garbled(tmp_path):
    garble(tmp_path / "a.npz", npz(mlx_tensors()))
