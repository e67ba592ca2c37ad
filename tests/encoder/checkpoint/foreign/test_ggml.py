"""whisper.cpp's `ggml-NAME.bin`, written as its converter writes it, is read."""

import contextlib
import dataclasses
import json
import random
import struct

import pytest
import torch

from melfront.encoder.checkpoint import CheckpointError, load
from tests.encoder.checkpoint.checkpoints import (
    NARROW,
    OPENAI,
    SQUARE,
    assert_same,
    dims,
    make,
    refuses,
    renamed,
)

DIMS = dims(SQUARE) | {"n_text_state": 26, "n_text_head": 2, "n_text_layer": 3}
HEADER = (
    "n_vocab", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer", "n_text_ctx",
    "n_text_state", "n_text_head", "n_text_layer", "n_mels",
)  # fmt: skip


def ggml(tensors, kind=1, **change):
    """A file of whisper.cpp, as its models/convert-h5-to-ggml.py writes it: kind 1 is float16."""
    out = struct.pack("<i", 0x67676D6C)
    out += struct.pack("<10i", *((DIMS | change)[name] for name in HEADER))
    out += struct.pack("<i", kind)
    out += struct.pack("<2i", 7, 201) + bytes(4 * 7 * 201)
    out += struct.pack("<i", 300) + b"".join(
        struct.pack("<i", i % 9) + b"x" * (i % 9) for i in range(300)
    )
    for name, tensor in tensors.items():
        array = tensor.squeeze().numpy()
        if name.endswith(("conv1.bias", "conv2.bias")):
            array = array.reshape(-1, 1)
        short = kind == 1 and array.ndim > 1 and not name.endswith(("bias", "positional_embedding"))
        array = array.astype("<f2" if short else "<f4")
        sizes = array.shape[::-1]
        out += struct.pack(f"<{3 + len(sizes)}i", array.ndim, len(name), int(short), *sizes)
        out += name.encode() + array.tobytes()
    return out


def garble(path, whole):
    """Any change of a few bytes at the beginning or the end: the weights, or one line."""
    generator = random.Random(3)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(generator.choice([1, 3, 30])):
            start = generator.choice([0, len(data) - 6000])
            data[start + generator.randrange(6000)] = generator.randrange(256)
        path.write_bytes(data)
        with contextlib.suppress(CheckpointError):
            load(path, config=SQUARE, check_finite=False)


@pytest.fixture(scope="module")
def openai():
    """Tensors whose values float16 holds, by openai-whisper's names, with some of a decoder."""
    return renamed(make(SQUARE, torch.float16), OPENAI, "encoder.")


@pytest.mark.parametrize("kind", [0, 1], ids=["f32", "f16"])
def test_ggml(tmp_path, openai, kind):
    path = tmp_path / "ggml-tiny.en.bin"
    path.write_bytes(ggml(openai, kind))
    config, weights = load(path, dtype=torch.float32)
    assert config == SQUARE
    assert_same(weights, make(SQUARE, torch.float16), torch.float32)
    stored = load(path)[1]
    assert stored["blocks.1.mlp.fc1.weight"].dtype == (torch.float16 if kind else torch.float32)
    refuses(
        tmp_path,
        f"{tmp_path} has no weights; it has only ",
        f"give the file itself, such as {path}",
    )


@pytest.mark.parametrize(("kind", "name"), [(2008, "q5_0"), (7, "q8_0"), (2014, "q6_k"), (99, "9")])
def test_quantised_ggml(tmp_path, openai, kind, name):
    path = tmp_path / "ggml-tiny-q5_0.bin"
    path.write_bytes(ggml(openai, kind))
    refuses(path, "ggml model of whisper.cpp: its weights are quantised (", name, "without -q in")


def test_damaged_ggml(tmp_path, openai):
    path, whole = tmp_path / "ggml.bin", ggml(openai)
    says = f"{path} is a ggml model of whisper.cpp: "
    for size in (*range(4, 60, 7), 5000, 6100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refuses(path, says, "cut short or damaged near byte ", f" of {size}; or give ")
    path.write_bytes(ggml({}))
    refuses(path, says, "it has no tensors: whisper.cpp's own tests")
    path.write_bytes(ggml(openai, n_audio_layer=10**9))
    refuses(path, "fewer than its 1000000000 layers")
    path.write_bytes(ggml(openai, n_audio_state=-26))
    refuses(path, "n_audio_state is -26")


@pytest.mark.parametrize("place", [4, 8, 44, 48, 52, 5680])
@pytest.mark.parametrize("value", [-1, 2**31 - 1, -(2**31), 1 << 20], ids=hex)
def test_ggml_that_claims_much(tmp_path, openai, place, value):
    """Every count of the format, of a file that is cut after its first tensors."""
    data = bytearray(ggml(openai)[:20_000])
    data[place : place + 4] = struct.pack("<i", value)
    (tmp_path / "ggml.bin").write_bytes(data)
    refuses(tmp_path / "ggml.bin", "ggml.bin is a ggml model of whisper.cpp: ")


def test_garbled(tmp_path, openai):
    garble(tmp_path / "ggml.bin", ggml(openai))


def test_dimensions_of_ggml_are_the_files(tmp_path, openai):
    """A config.json that lies beside it is of something else."""
    (tmp_path / "ggml.bin").write_bytes(ggml(openai))
    other = dataclasses.replace(NARROW, n_audio_layer=9)
    (tmp_path / "config.json").write_text(json.dumps(other.to_hf()))
    assert load(tmp_path / "ggml.bin")[0] == SQUARE
