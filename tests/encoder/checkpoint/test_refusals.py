"""Every broken checkpoint, and every one of another model, gives a one-line error."""

import argparse
import dataclasses
import json

import pytest
import torch

from melfront.encoder.checkpoint import load
from tests.encoder.checkpoint.checkpoints import (
    HF,
    NARROW,
    OPENAI,
    assert_same,
    make,
    refuses,
    renamed,
    write,
    write_shards,
)

# --- mismatched tensors -------------------------------------------------------------------------


def test_one_error_for_missing_extra_and_misshapen_tensors(tmp_path):
    tensors = renamed(make())
    del tensors["model.encoder.conv1.bias"]
    tensors["model.encoder.layers.2.extra"] = torch.zeros(5)
    tensors["model.encoder.layers.1.fc2.weight"] = torch.zeros(17, 26)
    tensors["model.encoder.layers.0.fc1.bias"] = torch.zeros(17, dtype=torch.int8)
    for file in ("a.safetensors", "a.bin"):
        refuses(
            write(tmp_path / file, tensors, NARROW),
            "does not fit EncoderConfig(n_mels=7,",
            "1 missing: model.encoder.conv1.bias (26,);",
            "1 left over: model.encoder.layers.2.extra;",
            "1 of a wrong shape: model.encoder.layers.1.fc2.weight (17, 26), expected (26, 17);",
            "1 of a type other than float16, bfloat16, float32 and float64: "
            "model.encoder.layers.0.fc1.bias",
            "I8" if file == "a.safetensors" else "torch.int8",
        )


@pytest.mark.parametrize("column", [HF, OPENAI], ids=["hf", "openai"])
def test_k_has_no_bias(tmp_path, column):
    tensors = renamed(make(), column)
    q = next(n for n in tensors if "layers.1.self_attn.q_proj.b" in n or "s.1.attn.query.b" in n)
    k = q.replace("q_proj", "k_proj").replace("query", "key")
    path = write(tmp_path / "a.safetensors", tensors | {k: torch.zeros(26)}, NARROW)
    refuses(path, f"1 left over (Whisper's k projection has no bias): {k}")


@pytest.mark.parametrize("layers", [1, 5])
def test_config_with_another_number_of_layers(tmp_path, layers):
    config = dataclasses.replace(NARROW, n_audio_layer=layers)
    path = write(tmp_path / "a.safetensors", renamed(make()), config)
    what, first = ("left over", 1) if layers == 1 else ("missing", 3)
    message = refuses(path, f"30 {what}: ", f"model.encoder.layers.{first}.", ", and 20 more")
    assert message.count("model.encoder.layers.") == 10


def test_config_of_other_dimensions(tmp_path):
    config = dataclasses.replace(NARROW, n_mels=5, n_audio_ctx=13)
    path = write(tmp_path / "a.safetensors", renamed(make()), config)
    refuses(
        path,
        "2 of a wrong shape: model.encoder.conv1.weight (26, 7, 3), expected (26, 5, 3), "
        "model.encoder.embed_positions.weight (11, 26), expected (13, 26)",
    )


def test_config_of_another_model(tmp_path):
    path = write(tmp_path / "model.safetensors", renamed(make()), NARROW)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    refuses(path, "config.json: model_type is 'bert', expected 'whisper'")
    assert_same(load(path, config=NARROW)[1], make())
    (tmp_path / "config.json").write_text("{")
    refuses(path, "config.json is damaged")
    (tmp_path / "config.json").write_text("[]")
    refuses(path, "config.json holds a list, expected an object")


def test_different_model(tmp_path):
    names = [f"bert.encoder.layer.{i}.attention.self.query.weight" for i in range(12)]
    path = write(tmp_path / "a.safetensors", {n: torch.zeros(3, 5) for n in names})
    refuses(path, f"has no tensor of a Whisper encoder; it has {names[0]}", ", and 9 more")


def test_folder_without_weights(tmp_path):
    refuses(tmp_path, f"{tmp_path} has no weights; looked for model.safetensors, model.safe")


# --- unreadable files ---------------------------------------------------------------------------


def test_truncated_safetensors(tmp_path):
    path = write(tmp_path / "a.safetensors", renamed(make()), NARROW)
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 300, 9, 8, 7, 1):
        path.write_bytes(whole[:size])
        refuses(path, "a.safetensors is cut short, damaged", f"({size} bytes; ")


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"model.encoder.conv1.bias": {"dtype": "F32", "shape": [26]}}',
        b'{"model.encoder.conv1.bias": {"dtype":"F32","shape":[26],"data_offsets":[0,8]}}',
        b'{"model.encoder.conv1.bias": {"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}',
        b'{"model.encoder.conv1.bias": {"dtype":"F32","shape":["2"],"data_offsets":[0,8]}}',
    ],
)
def test_damaged_header(tmp_path, header):
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(200))
    refuses(path, "is cut short, damaged, or not a safetensors file")


@pytest.mark.parametrize("file", ["a.safetensors", "a.bin", "a.pt"])
def test_empty_pointer_and_garbage(tmp_path, file):
    path = tmp_path / file
    path.write_bytes(b"")
    refuses(path, f"{path} is empty")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refuses(path, f"{path} is a Git LFS pointer, not the weights: run `git lfs pull`")
    path.write_bytes(bytes(range(256)) * 9)
    refuses(path, f"{path} is cut short, damaged, or not a ")


@pytest.mark.parametrize("new", [True, False])
def test_truncated_pickle(tmp_path, new):
    path = tmp_path / "a.bin"
    torch.save(renamed(make()), path, _use_new_zipfile_serialization=new)
    whole = path.read_bytes()
    for size in (len(whole) - 30, len(whole) // 2, 100):
        path.write_bytes(whole[:size])
        refuses(path, f"{path} is cut short, damaged, or not a PyTorch file")


@pytest.mark.parametrize("new", [True, False])
def test_pickled_objects_are_refused(tmp_path, new):
    path = tmp_path / "a.pt"
    content = renamed(make()) | {"args": argparse.Namespace(lr=1e-3)}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    refuses(path, "a.pt holds a argparse.Namespace, not only tensors", "run any code")


def test_pickle_that_is_not_a_dictionary(tmp_path):
    refuses(write(tmp_path / "a.pt", [torch.zeros(3)]), "a.pt holds a list, expected a state_dict")


def test_unsupported_file_type(tmp_path):
    (tmp_path / "model.pickle").write_bytes(b"model")
    refuses(tmp_path / "model.pickle", "expected a file named .safetensors, .bin, .pt")


def test_damaged_index(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{}")
    refuses(tmp_path, f"{index} has no weight_map")
    write_shards(tmp_path, renamed(make()), NARROW, ".safetensors")
    content = json.loads(index.read_text())
    content["weight_map"]["model.encoder.conv1.weight"] = 1
    index.write_text(json.dumps(content))
    refuses(tmp_path, f"{index} has no weight_map to say which tensor is in which file")
    index.write_text("nonsense")
    refuses(tmp_path, f"{index} is damaged")
