"""Every layout of a Whisper checkpoint gives the same tensors; every broken one, one clear line."""

import argparse
import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from huggingface_hub.errors import EntryNotFoundError

from encoder.checkpoint import TABLE, CheckpointError, hf_name, load, save_hf, shapes
from encoder.config import SIZES, EncoderConfig

# All different, and prime where a layout allows it. NARROW has an MLP that is not 4 * state, as
# only config.json can say; SQUARE has one that is, for OpenAI's dims; BARE's heads can be guessed.
NARROW = EncoderConfig(7, 11, 26, 2, 3, 17)
SQUARE = dataclasses.replace(NARROW, n_audio_mlp=104)
BARE = EncoderConfig(7, 11, 128, 2, 3, 17)
SHARED = Path(os.environ.get("MELFRONT_SHARED", Path(__file__).parents[3] / "shared"))
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
HF, OPENAI = 1, 2


def make(config=NARROW, dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    return {
        name: torch.randn(shape, generator=generator).to(dtype)
        for name, shape in shapes(config).items()
    }


def renamed(weights, column=HF, prefix="model.encoder."):
    """The tensors under another column of the table, in another order, with a decoder."""
    rows = {line.split()[0]: line.split()[column] for line in TABLE.splitlines() if line}
    named = {}
    for name, tensor in reversed(weights.items()):
        layer = re.search(r"\d+", name.removeprefix("conv1").removeprefix("conv2"))
        layer = layer[0] if name.startswith("blocks") else None
        row = rows[name.replace(f"blocks.{layer}.", "blocks.{}.", 1)]
        named[prefix + row.format(layer)] = tensor
    others = prefix.replace("encoder", "decoder") or "decoder."
    named[others + "layers.0.fc1.weight"] = torch.full((3, 5), torch.nan)
    return named | {"proj_out.weight": torch.full((2, 3), torch.nan)}


def dims(config):
    names = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")
    return {name: getattr(config, name) for name in names} | {"n_text_ctx": 19, "n_vocab": 101}


def write(path, tensors, config=None):
    """A file of the kind that its name says, and config.json beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    else:
        torch.save(tensors, path)
    if config:
        path.with_name("config.json").write_text(json.dumps(config.to_hf()))
    return path


def write_shards(folder, tensors, config, suffix, pieces=3):
    """The decoder's tensors come last, in a shard of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder = [name for name in tensors if "decoder" not in name and "proj_out" not in name]
    groups = [encoder[i::pieces] for i in range(pieces)]
    groups.append([name for name in tensors if name not in encoder])
    where = {}
    for i, group in enumerate(groups):
        shard = f"part-{i}{suffix}"
        write(folder / shard, {name: tensors[name] for name in group})
        where |= dict.fromkeys(group, shard)
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "config.json").write_text(json.dumps(config.to_hf()))
    return folder / f"part-{pieces}{suffix}"  # the decoder's


def assert_same(got, expected, dtype=None):
    """Bit for bit, name for name, in the same order; every tensor contiguous and its own owner."""
    assert list(got) == list(expected)
    for name, tensor in got.items():
        wanted = expected[name].to(dtype or expected[name].dtype)
        assert tensor.dtype == wanted.dtype, name
        assert torch.equal(tensor, wanted), name
        assert tensor.is_contiguous(), name
        assert not tensor.requires_grad, name
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, name


def refuses(path, *expected, **options):
    """The error is one line that says all of this; it is returned for more questions."""
    with pytest.raises(CheckpointError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for text in expected:
        assert text in message, message
    return message


# --- names --------------------------------------------------------------------------------------


def test_names_are_those_of_transformers_spelled_out(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    model = transformers.WhisperModel(
        transformers.WhisperConfig(**NARROW.to_hf(), vocab_size=50258)
    )
    for parameter in model.parameters():  # biases and norms start at 0 and 1, alike
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


def test_openai_names_mean_what_the_hugging_face_names_mean(tmp_path):
    """The same weights under both libraries' names are the same function."""
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


def test_hf_name_of_something_else():
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
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')  # dims come first
    config, read = load(path, dtype=torch.float32)
    assert config == SQUARE
    assert_same(read, make(SQUARE, torch.float16), torch.float32)


def test_pickle_of_before_pytorch_1_6(tmp_path):
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


def test_strided_tensors_of_a_pickle_come_out_contiguous(tmp_path):
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
    refuses(narrow, "its width 26 is no multiple of 64")
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


# --- only the encoder's bytes, and each of them once --------------------------------------------

LARGE = EncoderConfig(7, 11, 512, 8, 3, 2048)  # 36 MiB in float32


def with_huge_decoder(path, size=1 << 30):
    """Adds a decoder tensor of 1 GiB, which takes no room on disk: the file has a hole there."""
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
    load(path, dtype=dtype)  # what is imported and allocated once
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is held now
    except OSError:
        pytest.skip("this system has no peak memory that can be set back")
    before, start = status("status", "VmHWM"), status("io", "rchar")
    _, weights = load(path, dtype=dtype)
    n_read = status("io", "rchar") - start
    growth = (status("status", "VmHWM") - before) * 1024
    held = sum(t.nbytes for t in weights.values())
    largest = max(t.nbytes for t in weights.values())
    assert encoder <= n_read < encoder * 1.05
    assert growth < held + largest + (2 << 20)


def test_a_pickle_is_mapped_and_not_read(tmp_path):
    tensors = renamed(make()) | {"model.decoder.embed_tokens.weight": torch.zeros(1 << 22)}
    path = write(tmp_path / "a.bin", tensors, NARROW)  # of 16 MiB
    load(path)
    start = status("io", "rchar")
    load(path)
    assert status("io", "rchar") - start < 1 << 20


# --- the Hub ------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty Hub cache, offline. huggingface_hub reads the environment when it is imported."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)  # no folder of the checkout is taken for a model
    return tmp_path / "hub"


def snapshot(cache, repository, sha="0123456789abcdef0123456789abcdef01234567", ref="main"):
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / ref).write_text(sha)
    return folder / "snapshots" / sha


@pytest.mark.parametrize("name", ["openai/whisper-tiny", "whisper-tiny", "tiny"])
def test_name_in_the_cache(cache, name):
    write(snapshot(cache, "openai/whisper-tiny") / "model.safetensors", renamed(make()), NARROW)
    config, read = load(name)
    assert config == NARROW
    assert_same(read, make())
    assert_same(load(name, local_files_only=True)[1], make())


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("large-v1", "openai/whisper-large"),
        ("turbo", "openai/whisper-large-v3-turbo"),
        ("tiny.en", "openai/whisper-tiny.en"),
        ("distil-large-v3", "distil-whisper/distil-large-v3"),
        ("someone/fine-tuned_v1.0", "someone/fine-tuned_v1.0"),
    ],
)
def test_repository_of_a_name(cache, name, repository):
    write(snapshot(cache, repository) / "pytorch_model.bin", renamed(make()), NARROW)
    assert_same(load(name)[1], make())


def test_revision(cache):
    write(snapshot(cache, "openai/whisper-tiny") / "model.safetensors", renamed(make()), NARROW)
    other = {name: tensor + 1 for name, tensor in make().items()}
    folder = snapshot(cache, "openai/whisper-tiny", "f" * 40, "v2")
    write(folder / "model.safetensors", renamed(other), NARROW)
    assert_same(load("tiny")[1], make())
    assert_same(load("tiny", revision="v2")[1], other)
    assert_same(load("tiny", revision="f" * 40)[1], other)
    refuses("tiny", "cache at revision v3", revision="v3")


def test_shards_in_the_cache(cache):
    folder = snapshot(cache, "openai/whisper-tiny")
    write_shards(folder, renamed(make()), NARROW, ".safetensors").unlink()
    assert_same(load("tiny")[1], make())


def test_local_folder_wins(cache, tmp_path):
    write(snapshot(cache, "openai/whisper-tiny") / "model.safetensors", {"x": torch.zeros(1)})
    write(tmp_path / "openai/whisper-tiny/model.safetensors", renamed(make()), NARROW)
    write(tmp_path / "tiny/model.safetensors", renamed(make()), NARROW)
    assert_same(load("openai/whisper-tiny")[1], make())
    assert_same(load("tiny")[1], make())


@pytest.mark.parametrize("local_only", [True, False])
def test_not_in_the_cache(cache, monkeypatch, local_only):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", not local_only)
    refuses(
        "large-v3",
        "openai/whisper-large-v3 is no folder here, its model.safetensors is not in the local",
        "give a local folder, or run `hf download openai/whisper-large-v3` where there is",
        local_files_only=local_only,
    )


def test_only_what_is_needed_is_downloaded(cache, tmp_path, monkeypatch):
    there = tmp_path / "the hub"
    write_shards(there, renamed(make()), NARROW, ".safetensors")
    asked = []

    def download(repository, filename, *, revision, local_files_only):
        assert (repository, revision, local_files_only) == ("openai/whisper-tiny", "v2", False)
        asked.append(filename)
        if not (there / filename).is_file():
            raise EntryNotFoundError(filename)
        return str(there / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert_same(load("tiny", revision="v2")[1], make())
    shards = [f"part-{i}.safetensors" for i in range(3)]
    index = "model.safetensors.index.json"
    assert asked == ["model.safetensors", index, *shards, "config.json"]
    (there / index).unlink()
    refuses("tiny", "openai/whisper-tiny has no weights; looked for model.safe", revision="v2")


def test_what_is_in_the_cache_is_not_asked_for(cache, monkeypatch):
    """An index in the cache will do; the Hub is not asked whether it has a whole file."""
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: pytest.fail("asked"))
    write_shards(snapshot(cache, "openai/whisper-tiny"), renamed(make()), NARROW, ".bin")
    assert_same(load("tiny")[1], make())


def test_the_hub_says_no(cache, monkeypatch):
    def download(*args, **options):
        raise OSError("401 Client Error.\n\nRepository Not Found, and so on")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    message = refuses("someone/private", "someone/private: OSError: 401 Client Error.")
    assert "and so on" not in message


@pytest.mark.parametrize(
    ("name", "near"),
    [("large-v4", "large-v"), ("tinny", "tiny"), ("whisper-bas", "base"), ("xyzzy", None)],
)
def test_unknown_name(cache, name, near):
    message = refuses(name, f"{name!r} is no file or folder here, nor the name of a Whisper")
    assert (f"nearest known size is '{near}" in message) if near else "nearest" not in message


@pytest.mark.parametrize("name", ["weights/model.safetensors", "a/b/c", "./tiny", "/no/such", ""])
def test_no_such_path(cache, name):
    if name:
        refuses(name, f"{name!r} is no file or folder here")
    else:
        refuses(name, "has no weights")  # "" is the working folder


# --- what does not fit --------------------------------------------------------------------------


def test_missing_left_over_and_ill_shaped_in_one_error(tmp_path):
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
            "1 of another shape: model.encoder.layers.1.fc2.weight (17, 26), expected (26, 17);",
            "1 of a type that is not float16, bfloat16 or float32: model.encoder.layers.0.fc1.bias",
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
        "2 of another shape: model.encoder.conv1.weight (26, 7, 3), expected (26, 5, 3), "
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


def test_another_model(tmp_path):
    names = [f"bert.encoder.layer.{i}.attention.self.query.weight" for i in range(12)]
    path = write(tmp_path / "a.safetensors", {n: torch.zeros(3, 5) for n in names})
    refuses(path, f"has nothing of a Whisper encoder; it has {names[0]}", ", and 9 more")


def test_folder_without_weights(tmp_path):
    refuses(tmp_path, f"{tmp_path} has no weights; looked for model.safetensors, model.safe")


# --- what cannot be read ------------------------------------------------------------------------


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
    refuses(path, "is cut short, damaged, or no safetensors file")


@pytest.mark.parametrize("file", ["a.safetensors", "a.bin", "a.pt"])
def test_empty_pointer_and_garbage(tmp_path, file):
    path = tmp_path / file
    path.write_bytes(b"")
    refuses(path, f"{path} is empty")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refuses(path, f"{path} is a Git LFS pointer, not the weights: run `git lfs pull`")
    path.write_bytes(bytes(range(256)) * 9)
    refuses(path, f"{path} is cut short, damaged, or no ")


@pytest.mark.parametrize("new", [True, False])
def test_truncated_pickle(tmp_path, new):
    path = tmp_path / "a.bin"
    torch.save(renamed(make()), path, _use_new_zipfile_serialization=new)
    whole = path.read_bytes()
    for size in (len(whole) - 30, len(whole) // 2, 100):
        path.write_bytes(whole[:size])
        refuses(path, f"{path} is cut short, damaged, or no PyTorch file")


@pytest.mark.parametrize("new", [True, False])
def test_pickled_objects_are_refused(tmp_path, new):
    path = tmp_path / "a.pt"
    content = renamed(make()) | {"args": argparse.Namespace(lr=1e-3)}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    refuses(path, "a.pt holds a argparse.Namespace, not only tensors", "run any code")


def test_pickle_of_no_dictionary(tmp_path):
    refuses(write(tmp_path / "a.pt", [torch.zeros(3)]), "a.pt holds a list, expected a state_dict")


def test_file_of_another_kind(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    refuses(tmp_path / "model.onnx", "expected a file named .safetensors, .bin, .pt")


def test_damaged_index(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{}")
    refuses(tmp_path, f"{index} has no weight_map")
    index.write_text("nonsense")
    refuses(tmp_path, f"{index} is damaged")


# --- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, *DTYPES], ids=str)
def test_saved_and_read_back(tmp_path, dtype):
    weights = make()
    save_hf(tmp_path / "new" / "folder", NARROW, weights, dtype)
    config, read = load(tmp_path / "new" / "folder")
    assert config == NARROW
    assert_same(read, weights, dtype)
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert names == ["config.json", "model.safetensors"]  # nothing temporary is left


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_transformers_reads_what_we_save(tmp_path, dtype):
    transformers = pytest.importorskip("transformers")
    save_hf(tmp_path, NARROW, make(), dtype)
    model, report = transformers.WhisperModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not [name for name in report["missing_keys"] if name.startswith("encoder.")]
    assert not report["unexpected_keys"]
    theirs = model.encoder.state_dict()
    assert_same({name: theirs[hf_name(name)] for name in make()}, make(), dtype)


def test_what_does_not_fit_is_not_saved(tmp_path):
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


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
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


def test_trained_weights_are_those_that_transformers_loads():
    folder = SHARED / "whisper-tiny.en"
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"no {folder}: set MELFRONT_SHARED to a folder with whisper-tiny.en")
    transformers = pytest.importorskip("transformers")
    config, weights = load(folder, dtype=torch.float32)
    assert config == SIZES["tiny.en"]
    model = transformers.WhisperModel.from_pretrained(folder, dtype=torch.float32)
    theirs = model.encoder.state_dict()
    assert_same(weights, {name: theirs[hf_name(name)] for name in shapes(config)})
    assert len(theirs) == len(weights)
