"""Every layout of a Whisper checkpoint gives the same tensors."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from melfront.encoder.checkpoint import CheckpointError, hf_name, load, save_hf, shapes
from melfront.encoder.config import SIZES, EncoderConfig
from tests.encoder.checkpoint.checkpoints import (
    BARE,
    DTYPES,
    HF,
    NARROW,
    OPENAI,
    SQUARE,
    assert_same,
    dims,
    make,
    refuses,
    renamed,
    write,
    write_shards,
)

# --- names --------------------------------------------------------------------------------------


def test_names_match_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    model = transformers.WhisperModel(
        transformers.WhisperConfig(**NARROW.to_hf(), vocab_size=50258)
    )
    for parameter in model.parameters():  # biases and norms start out equal, at 0 and 1
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="12KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 3

    theirs = model.encoder
    expected = {
        "conv1.weight": theirs.conv1.weight,
        "conv1.bias": theirs.conv1.bias,
        "conv2.weight": theirs.conv2.weight,
        "conv2.bias": theirs.conv2.bias,
        "positions": theirs.embed_positions.weight,
    }
    for i, layer in enumerate(theirs.layers):
        for ours, module in {
            "attn_ln": layer.self_attn_layer_norm,
            "attn.q": layer.self_attn.q_proj,
            "attn.k": layer.self_attn.k_proj,
            "attn.v": layer.self_attn.v_proj,
            "attn.out": layer.self_attn.out_proj,
            "mlp_ln": layer.final_layer_norm,
            "mlp.fc1": layer.fc1,
            "mlp.fc2": layer.fc2,
        }.items():
            expected[f"blocks.{i}.{ours}.weight"] = module.weight
            if ours != "attn.k":
                expected[f"blocks.{i}.{ours}.bias"] = module.bias
    expected["ln_post.weight"] = theirs.layer_norm.weight
    expected["ln_post.bias"] = theirs.layer_norm.bias

    assert {n: tuple(t.shape) for n, t in expected.items()} == shapes(NARROW)
    assert [hf_name(name) for name in expected] == [
        next(n for n, t in theirs.state_dict().items() if t.data_ptr() == p.data_ptr())
        for p in expected.values()
    ]
    for folder in ("whole", "shards"):
        config, weights = load(tmp_path / folder)
        assert config == NARROW
        assert_same(weights, expected)


def test_openai_names_match_hugging_face_names(tmp_path):
    """The same weights under both libraries' names give the same output."""
    transformers = pytest.importorskip("transformers")
    whisper_model = pytest.importorskip("whisper.model")
    weights = make(SQUARE)
    one = transformers.WhisperModel(transformers.WhisperConfig(**SQUARE.to_hf(), vocab_size=50258))
    one.encoder.load_state_dict({hf_name(name): tensor for name, tensor in weights.items()})
    two = whisper_model.AudioEncoder(7, 11, 26, 2, 3)
    openai = renamed(weights, OPENAI, "")
    two.load_state_dict({name: openai[name] for name in two.state_dict()})
    mel = torch.randn(2, 7, 22)
    with torch.no_grad():
        torch.testing.assert_close(
            two(mel), one.eval().encoder(mel).last_hidden_state, rtol=1e-4, atol=1e-4
        )

    path = write(tmp_path / "x.pt", {"dims": dims(SQUARE), "model_state_dict": two.state_dict()})
    config, read = load(path)
    assert config == SQUARE
    assert_same(read, weights)


def test_hf_name_of_an_unknown_tensor():
    assert hf_name("blocks.12.mlp.fc1.bias") == "layers.12.fc1.bias"
    for name in ("blocks.3.attn.k.bias", "layers.3.fc1.bias", "fc1", "blocks.{}.mlp.fc1.bias"):
        with pytest.raises(KeyError):
            hf_name(name + ".")


# --- layouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("column", [HF, OPENAI], ids=["hf", "openai"])
@pytest.mark.parametrize("prefix", ["model.encoder.", "encoder.", ""])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "any.pt"])
def test_every_prefix_naming_and_dtype(tmp_path, file, prefix, column, dtype):
    weights = make(NARROW, dtype)
    path = write(tmp_path / file, renamed(weights, column, prefix), NARROW)
    for source in (path, str(path)) + (() if file == "any.pt" else (tmp_path, f"{tmp_path}/")):
        config, read = load(source)
        assert config == NARROW
        assert_same(read, weights)
    for wanted in DTYPES:
        assert_same(load(path, dtype=wanted)[1], weights, wanted)


def test_our_own_names(tmp_path):
    path = write(tmp_path / "mine.pt", make(BARE))
    config, read = load(path)
    assert config == BARE
    assert_same(read, make(BARE))


def test_openai_file(tmp_path):
    state = renamed(make(SQUARE, torch.float16), OPENAI, "encoder.")
    path = write(tmp_path / "tiny.pt", {"dims": dims(SQUARE), "model_state_dict": state})
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')  # dims take precedence
    config, read = load(path, dtype=torch.float32)
    assert config == SQUARE
    assert_same(read, make(SQUARE, torch.float16), torch.float32)


def test_pickle_from_before_pytorch_1_6(tmp_path):
    tensors = {n: torch.nn.Parameter(t) for n, t in renamed(make(BARE)).items()}
    torch.save(tensors, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert_same(load(tmp_path / "old.bin")[1], make(BARE))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_only_the_shards_of_the_encoder_are_opened(tmp_path, suffix):
    weights = make()
    decoder = write_shards(tmp_path, renamed(weights), NARROW, suffix)
    assert_same(load(tmp_path)[1], weights)
    assert_same(load(next(tmp_path.glob("*.index.json")))[1], weights)
    decoder.write_bytes(b"garbage")
    assert_same(load(tmp_path)[1], weights)
    decoder.unlink()
    assert_same(load(tmp_path)[1], weights)
    (tmp_path / f"part-1{suffix}").unlink()
    refuses(tmp_path, f"lists tensors of the encoder in part-1{suffix}: no such file")


def test_strided_tensors_of_a_pickle_become_contiguous(tmp_path):
    weights = make()
    tensors = renamed(weights)
    fused = torch.cat([weights["blocks.0.attn.q.weight"], weights["blocks.0.attn.k.weight"]])
    tensors["model.encoder.layers.0.self_attn.q_proj.weight"] = fused[:26]
    tensors["model.encoder.layers.0.self_attn.k_proj.weight"] = fused[26:]
    name = "model.encoder.layers.0.fc1.weight"
    tensors[name] = tensors[name].T.contiguous().T
    assert_same(load(write(tmp_path / "a.bin", tensors, NARROW))[1], weights)


@pytest.mark.parametrize("file", ["a.safetensors", "a.bin"])
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_tensors_outlive_the_file(tmp_path, file, dtype):
    path = write(tmp_path / file, renamed(make()), NARROW)
    _, read = load(path, dtype=dtype)
    with path.open("r+b") as stream:
        stream.write(b"\x77" * path.stat().st_size)
    assert_same(read, make(), dtype)


def test_dimensions_from_the_tensors_alone(tmp_path):
    path = write(tmp_path / "a.safetensors", renamed(make(BARE)))
    assert load(path)[0] == BARE
    assert load(path, config=dataclasses.replace(BARE, n_audio_head=4))[0].n_audio_head == 4
    narrow = write(tmp_path / "b" / "b.safetensors", renamed(make(NARROW)))
    refuses(narrow, "its width 26 is not a multiple of 64")
    assert load(narrow, config=NARROW)[0] == NARROW
    tensors = renamed(make(BARE))
    del tensors["model.encoder.embed_positions.weight"]
    refuses(write(path, tensors), "no tensor for 'positions', and no config.json")


def test_safetensors_is_preferred(tmp_path):
    write(tmp_path / "pytorch_model.bin", {"nothing": torch.zeros(1)})
    write(tmp_path / "model.safetensors", renamed(make()), NARROW)
    assert_same(load(tmp_path)[1], make())


def test_progress_and_device(tmp_path):
    path = write(tmp_path / "a.safetensors", renamed(make()), NARROW)
    seen = []
    _, read = load(path, device="meta", progress=lambda done, total: seen.append((done, total)))
    assert {n: tuple(t.shape) for n, t in read.items()} == shapes(NARROW)
    assert {t.device.type for t in read.values()} == {"meta"}
    assert seen == [(i + 1, len(read)) for i in range(len(read))]


# --- only the encoder's bytes are read, and only once -------------------------------------------

LARGE = EncoderConfig(7, 11, 512, 8, 3, 2048)  # 36 MiB in float32


def with_huge_decoder(path, size=1 << 30):
    """Add a decoder tensor of 1 GiB as a hole in a sparse file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    end = max(e["data_offsets"][1] for n, e in header.items() if n != "__metadata__")
    header["model.decoder.embed_tokens.weight"] = {
        "dtype": "F32", "shape": [size // 4], "data_offsets": [end, end + size],
    }  # fmt: skip
    head = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head + data[8 + length :])
        file.truncate(8 + len(head) + end + size)


def status(file, key):
    try:
        lines = Path("/proc/self", file).read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))
    except (OSError, StopIteration):
        pytest.skip(f"no {key} in /proc/self/{file} on this system")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_bytes_read_and_memory(tmp_path, dtype):
    path = write(tmp_path / "a.safetensors", renamed(make(LARGE, torch.float16)), LARGE)
    encoder = sum(t.nbytes for t in make(LARGE, torch.float16).values())
    with_huge_decoder(path)
    load(path, dtype=dtype)  # imports and one-time allocations
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak to current use
    except OSError:
        pytest.skip("this system cannot reset a process's peak memory")
    before, start = status("status", "VmHWM"), status("io", "rchar")
    _, weights = load(path, dtype=dtype)
    n_read = status("io", "rchar") - start
    growth = (status("status", "VmHWM") - before) * 1024
    held = sum(t.nbytes for t in weights.values())
    largest = max(t.nbytes for t in weights.values())
    assert encoder <= n_read < encoder * 1.05
    assert growth < held + largest + (2 << 20)


def test_pickle_is_memory_mapped(tmp_path):
    tensors = renamed(make()) | {"model.decoder.embed_tokens.weight": torch.zeros(1 << 22)}
    path = write(tmp_path / "a.bin", tensors, NARROW)  # of 16 MiB
    load(path)
    start = status("io", "rchar")
    load(path)
    assert status("io", "rchar") - start < 1 << 20


# --- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, *DTYPES], ids=str)
def test_save_and_load_round_trip(tmp_path, dtype):
    weights = make()
    save_hf(tmp_path / "new" / "folder", NARROW, weights, dtype)
    config, read = load(tmp_path / "new" / "folder")
    assert config == NARROW
    assert_same(read, weights, dtype)
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert names == ["config.json", "model.safetensors"]  # no temporary files


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_transformers_reads_what_we_save(tmp_path, dtype):
    transformers = pytest.importorskip("transformers")
    save_hf(tmp_path, NARROW, make(), dtype)
    model, report = transformers.WhisperModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not [name for name in report["missing_keys"] if name.startswith("encoder.")]
    assert not report["unexpected_keys"]
    theirs = model.encoder.state_dict()
    assert_same({name: theirs[hf_name(name)] for name in make()}, make(), dtype)


def test_mismatched_weights_are_not_saved(tmp_path):
    weights = make()
    save_hf(tmp_path, NARROW, weights)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"do not fit .*: conv1\.bias, positions$"):
        save_hf(
            tmp_path,
            NARROW,
            {n: t for n, t in weights.items() if n != "conv1.bias"}
            | {"positions": torch.zeros(26, 11)},
        )
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_failed_save_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    save_hf(tmp_path, NARROW, make())

    def full_disk(tensors, path, metadata):
        Path(path).write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_hf(tmp_path, NARROW, {name: tensor + 1 for name, tensor in make().items()})
    assert_same(load(tmp_path)[1], make())
    assert len(list(tmp_path.iterdir())) == 2


# --- trained weights ----------------------------------------------------------------------------


def test_trained_weights_match_transformers(tiny_en):
    transformers = pytest.importorskip("transformers")
    config, weights = load(tiny_en, dtype=torch.float32)
    assert config == SIZES["tiny.en"]
    model = transformers.WhisperModel.from_pretrained(tiny_en, dtype=torch.float32)
    theirs = model.encoder.state_dict()
    assert_same(weights, {name: theirs[hf_name(name)] for name in shapes(config)})
    assert len(theirs) == len(weights)
