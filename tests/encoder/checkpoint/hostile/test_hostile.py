"""Malicious checkpoints are refused at once, in one line."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from melfront.encoder import EncoderConfig, WhisperEncoder
from melfront.encoder.checkpoint import load
from tests.conftest import CHECKOUT
from tests.encoder.checkpoint.checkpoints import (
    NARROW,
    OPENAI,
    SQUARE,
    assert_same,
    dims,
    make,
    refuses,
    renamed,
    with_header,
    write,
    write_shards,
)

# A limit that the child sets itself: code between fork and exec can wait for ever for a lock that a
# thread of this process holds.
LIMITED = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
runpy.run_module("melfront.encoder", run_name="__main__")
"""
DEEP = "[" * 50_000
CONV = "model.encoder.conv1.weight"


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "model.safetensors", renamed(make()), NARROW)
    return tmp_path


@pytest.fixture
def shards(tmp_path):
    """A function that edits the index of a folder of shards and returns the folder."""
    write_shards(tmp_path, renamed(make()), NARROW, ".safetensors")
    index = tmp_path / "model.safetensors.index.json"

    def change(edit):
        content = json.loads(index.read_text())
        edit(content["weight_map"])
        index.write_text(json.dumps(content))
        return tmp_path

    return change


def entry(**change):
    def edit(text):
        header = json.loads(text)
        header[CONV] |= change
        return json.dumps(header)

    return edit


# --- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [DEEP, '{"a":' * 50_000], ids=["list", "object"])
def test_deeply_nested_json(folder, text):
    config = folder / "config.json"
    config.write_text(text)
    refuses(folder, f"{config} is damaged: its JSON is nested too deep")
    config.write_text(json.dumps(NARROW.to_hf() | {"extra": 0}).replace("0}", DEEP + "]" * 50_000))
    refuses(folder, f"{config} is damaged")
    with_header(folder / "model.safetensors", lambda _: text)
    refuses(folder, "not a safetensors file", "its JSON is nested too deep")


def test_deeply_nested_index(shards):
    path = shards(dict)
    (path / "model.safetensors.index.json").write_text(DEEP)
    refuses(path, "index.json is damaged: its JSON is nested too deep")


def test_duplicate_keys(folder):
    (folder / "config.json").write_text(json.dumps(NARROW.to_hf())[:-1] + ', "d_model": 52}')
    refuses(folder, "config.json is damaged: it has 'd_model' twice")
    one = '"model.encoder.conv1.bias": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, '
    with_header(folder / "model.safetensors", lambda text: "{" + one + text[1:])
    refuses(folder, "not a safetensors file", "it has 'model.encoder.conv1.bias' twice")


def test_oversized_json(folder):
    (folder / "config.json").write_text(json.dumps(NARROW.to_hf()) + " " * (1 << 22))
    refuses(folder, "config.json is damaged: it has more than 4194304 bytes")
    (folder / "model.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    refuses(folder, "not a safetensors file (10 bytes; a header of 4611686018427387904 bytes)")


# --- values that are not finite -------------------------------------------------------------------


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("file", ["a.safetensors", "a.bin"])
def test_weights_that_are_not_finite(tmp_path, file, dtype, value):
    weights = make(dtype=dtype)
    weights["blocks.1.mlp.fc2.weight"][-1, -1] = value
    path = write(tmp_path / file, renamed(weights), NARROW)
    name = "model.encoder.layers.1.fc2.weight has values that are NaN or infinite in "
    refuses(path, f"{path}: {name}{dtype}; if that is intended, pass check_finite=False")
    refuses(path, f"{name}torch.float32", dtype=torch.float32)
    read = load(path, check_finite=False)[1]["blocks.1.mlp.fc2.weight"]
    assert torch.equal(read, weights["blocks.1.mlp.fc2.weight"]) or read[-1, -1].isnan()
    WhisperEncoder.from_pretrained(path, check_finite=False)


def test_weights_that_overflow_another_dtype(tmp_path):
    weights = make()
    weights["ln_post.bias"][3] = 65536  # the largest float16 is 65504
    path = write(tmp_path / "a.safetensors", renamed(weights), NARROW)
    assert_same(load(path)[1], weights)
    refuses(path, "layer_norm.bias has values that are NaN or infinite in torch.float16",
            dtype=torch.float16)  # fmt: skip


# --- positions of another model -------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [torch.zeros_like, torch.randn_like, lambda x: x / 2, lambda x: x.roll(1, 0),
     lambda x: x.flip(0), lambda x: x.unflatten(1, (2, 13)).mT.flatten(1)],
    ids=["zeros", "learned", "halved", "one late", "backwards", "in turns"],
)  # fmt: skip
def test_positions_of_another_model(tmp_path, caplog, other):
    torch.manual_seed(3)
    weights = make()
    weights["positions"] = other(weights["positions"]).contiguous()
    path = write(tmp_path / "a.safetensors", renamed(weights), NARROW)
    assert_same(load(path)[1], weights)
    (message,) = caplog.messages
    assert message.startswith(f"{path}: model.encoder.embed_positions.weight is ")
    assert "off Whisper's sines and cosines (rms): the positions of another model" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("n_audio_ctx", [1, 11, 1500, 2000])
def test_positions_of_any_length_and_type(tmp_path, caplog, n_audio_ctx, dtype):
    """Also moved by as much as training moves them."""
    config = dataclasses.replace(NARROW, n_audio_ctx=n_audio_ctx)
    weights = make(config, dtype)
    load(write(tmp_path / "a.safetensors", renamed(weights), config))
    weights["positions"] += 0.05 * torch.randn(weights["positions"].shape)
    load(write(tmp_path / "a.safetensors", renamed(weights), config))
    assert not caplog.messages


# --- an index that points elsewhere ---------------------------------------------------------------


@pytest.mark.parametrize(
    "shard",
    ["../part-0.safetensors", "a/../../part-0.safetensors", "{folder}/part-0.safetensors",
     "//host/x", "C:\\part-0.safetensors", "..\\part-0.safetensors", "\\part-0.safetensors"],
)  # fmt: skip
def test_index_that_points_out_of_its_folder(shards, tmp_path, shard):
    (tmp_path / "a").mkdir()
    shard = shard.format(folder=tmp_path)
    path = shards(lambda where: where.update({CONV: shard}))
    refuses(path, "index.json points out of its folder, to ", ": not followed")


def test_shards_behind_links_as_in_the_hub_cache(shards, tmp_path):
    """snapshots/x/part-1.safetensors is a link to ../../blobs/y."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "x"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(shards(lambda where: None).glob("*.*"))):
        file.rename(blobs / f"{i}")
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    assert_same(load(snapshot)[1], make())


def test_shards_in_a_subfolder(shards):
    def move(where):
        where |= {name: f"sub/{shard}" for name, shard in where.items()}

    path = shards(move)
    (path / "sub").mkdir()
    for file in path.glob("part-*"):
        file.rename(path / "sub" / file.name)
    assert_same(load(path)[1], make())


def test_index_that_contradicts_its_shards(shards):
    path = shards(lambda where: where.pop(CONV))
    refuses(path, f"1 missing: {CONV} (26, 7, 3)")
    path = shards(lambda where: where.update({CONV: "part-0.safetensors"}))
    path = shards(lambda where: where.update({CONV: "part-1.safetensors"}))
    refuses(path, f"1 missing: {CONV} (26, 7, 3)")


# --- dimensions and shapes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"encoder_layers": 10**9}, {"d_model": 10**9}, {"max_source_positions": 10**9}],
    ids=lambda change: next(iter(change)),
)
def test_huge_dimensions(folder, change):
    """Run in a new process, limited to 20 s of CPU time and 4 GB of address space."""
    (folder / "config.json").write_text(json.dumps(NARROW.to_hf() | change))

    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "--model", folder],
        cwd=CHECKOUT, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1
    assert "does not fit EncoderConfig(" in done.stderr


@pytest.mark.parametrize("value", [0, -1, 1.5, 26.0, True, "26", None, [26], {}, 10**30, 1 << 31])
@pytest.mark.parametrize("name", ["d_model", "encoder_layers", "num_mel_bins", "encoder_ffn_dim"])
def test_invalid_dimensions(folder, name, value):
    (folder / "config.json").write_text(json.dumps(NARROW.to_hf() | {name: value}))
    refuses(folder, "config.json: n_", ", expected ")


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [26, 7, 3.0]}, {"shape": [True, 26, 21]}, {"shape": [-26, -7, 3]},
        {"shape": [2**62, 4, 0]}, {"shape": 546}, {"shape": None}, {"data_offsets": [0, 2184]},
        {"data_offsets": [8, 0]}, {"data_offsets": [0, 10**20]}, {"data_offsets": [0]},
        {"data_offsets": "ab"}, {"dtype": ["F32"]},
    ],
    ids=str,
)  # fmt: skip
def test_invalid_headers(folder, change):
    with_header(folder / "model.safetensors", entry(**change))
    refuses(folder)


def test_overlapping_and_unused_bytes(folder):
    def overlap(text):
        header = json.loads(text)
        header["model.encoder.layer_norm.bias"] = header["model.encoder.layer_norm.weight"]
        return json.dumps(header)

    path = with_header(folder / "model.safetensors", overlap)
    refuses(folder, "its tensors are not the ", "bytes after the header")
    write(path, renamed(make()), NARROW)
    path.write_bytes(path.read_bytes() + bytes(4))
    refuses(folder, "its tensors are not the ", "bytes after the header")


# --- pickles --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (torch.zeros(1).expand(26), "torch.float32, expanded"),
        (torch.zeros(26).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
        (torch.empty(26, device="meta"), "torch._utils._rebuild_meta_tensor_no_storage"),
        (torch.zeros(26, dtype=torch.complex64), "torch.complex64"),
    ],
    ids=["expanded", "sparse", "meta", "complex"],
)
def test_tensors_without_their_own_values(tmp_path, tensor, what):
    tensors = renamed(make()) | {"model.encoder.conv1.bias": tensor}
    path = write(tmp_path / "a.bin", tensors, NARROW)
    refuses(path, f"1 of a type other than float16, bfloat16, float32 and float64: "
            f"model.encoder.conv1.bias {what}")  # fmt: skip


@pytest.mark.parametrize("given", [5, [1], "text", {}, {"n_mels": "x" * 10**6}], ids=type)
def test_invalid_dims(tmp_path, given):
    if isinstance(given, dict) and given:
        given = dims(SQUARE) | given
    content = {"dims": given, "model_state_dict": renamed(make(SQUARE), OPENAI, "encoder.")}
    refuses(write(tmp_path / "a.pt", content), "a.pt: ")
    content["dims"] = dims(SQUARE) | {"n_audio_state": 10**30}
    refuses(write(tmp_path / "a.pt", content), "a.pt: n_audio_state is 100 bits long")


def test_names_that_are_not_strings(tmp_path):
    tensors = renamed(make())
    odd = {5: torch.zeros(2), None: torch.zeros(2), ("a", 1): torch.zeros(2)}
    assert_same(load(write(tmp_path / "a.bin", tensors | odd, NARROW))[1], make())
    refuses(write(tmp_path / "a.pt", {"model_state_dict": 5}), "a.pt holds a int, expected")
    refuses(write(tmp_path / "a.pt", odd), "a.pt has no tensor of a Whisper encoder")


# --- messages -------------------------------------------------------------------------------------


def test_quoted_names_are_short_and_printable(tmp_path):
    tensors = {f"\x1b[31m\n{i}{'long' * 999}": torch.zeros(1) for i in range(50)}
    path = write(tmp_path / "a.safetensors", tensors)
    message = refuses(path, "has no tensor of a Whisper encoder; it has \\x1b[31m 0long")
    assert message.isprintable()
    assert len(message) <= 1000
    encoder = renamed(make()) | {f"model.encoder.{name}": x for name, x in tensors.items()}
    message = refuses(write(path, encoder, NARROW), "50 left over: model.encoder.\\x1b[31m")
    assert message.isprintable()
    assert len(message) <= 1000


def test_paths_that_cannot_be_opened(tmp_path):
    refuses("x" * 5000, "cannot be read: File name too long")
    refuses("~nobody-of-this-name/x", "is neither a file or folder nor")
    refuses("a\0b", "is neither a file or folder nor")
    write_shards(tmp_path, renamed(make()), NARROW, ".safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("part-1", "x" * 300))
    refuses(tmp_path, "cannot be read: File name too long")


@pytest.mark.parametrize("error", [
    MemoryError("no room"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8"),
])  # fmt: skip
def test_weights_that_exceed_memory(tmp_path, monkeypatch, error):
    def fail(shape, **_options):
        if isinstance(shape, tuple):
            raise error
        return torch.zeros(shape)

    path = write(tmp_path / "a.safetensors", renamed(make()), NARROW)
    monkeypatch.setattr(torch, "empty", fail)
    refuses(path, "a.safetensors: too little memory for its weights (")


def test_no_published_size_is_refused():
    config = dataclasses.replace(NARROW, n_audio_layer=(1 << 31) - 1)
    assert EncoderConfig.from_hf(config.to_hf()) == config
