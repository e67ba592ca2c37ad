"""Write checkpoints of small encoders in every layout, and check the tensors read from them."""

import dataclasses
import json
import re

import pytest
import safetensors.torch
import torch

from melfront.encoder import formula
from melfront.encoder.checkpoint import CheckpointError, load, shapes
from melfront.encoder.checkpoint.names import TABLE
from melfront.encoder.config import EncoderConfig

# All sizes differ, and are prime where the layout allows it. NARROW has an MLP that is not
# 4 * state wide, which only config.json can express; SQUARE has one that is, as OpenAI's dims
# imply; the number of heads of BARE can be inferred.
NARROW = EncoderConfig(7, 11, 26, 2, 3, 17)
SQUARE = dataclasses.replace(NARROW, n_audio_mlp=104)
BARE = EncoderConfig(7, 11, 128, 2, 3, 17)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
HF, OPENAI = 1, 2
LANGUAGE = {"language_model.model.norm.weight": torch.full((5,), torch.nan)}


def make(config=NARROW, dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    weights = {
        name: torch.randn(shape, generator=generator) for name, shape in shapes(config).items()
    }
    positions = formula.weight("positions", tuple(weights["positions"].shape))
    weights["positions"] = torch.from_numpy(positions)
    return {name: tensor.to(dtype) for name, tensor in weights.items()}


def renamed(weights, column=HF, prefix="model.encoder."):
    """The tensors under the names of another column of TABLE, reversed, with a decoder's added."""
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


def under(prefix, weights, column=HF):
    """The tensors by the names of a column, each with this prefix."""
    named = renamed(weights, column, "")
    return {prefix + n: x for n, x in named.items() if not n.startswith(("decoder", "proj_out"))}


def dims(config):
    names = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")
    return {name: getattr(config, name) for name in names} | {"n_text_ctx": 19, "n_vocab": 101}


def write(path, tensors, config=None):
    """Write a file in the format of its suffix, and config.json next to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    else:
        torch.save(tensors, path)
    if config:
        path.with_name("config.json").write_text(json.dumps(config.to_hf()))
    return path


def write_shards(folder, tensors, config, suffix, pieces=3):
    """Write shards and their index. The last shard has only the decoder's tensors."""
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
    return folder / f"part-{pieces}{suffix}"  # the decoder's shard


def assert_same(got, expected, dtype=None):
    """Same names, order and bits; every tensor is contiguous and owns its memory."""
    assert list(got) == list(expected)
    for name, tensor in got.items():
        wanted = expected[name].to(dtype or expected[name].dtype)
        assert tensor.dtype == wanted.dtype, name
        assert torch.equal(tensor, wanted), name
        assert tensor.is_contiguous(), name
        assert not tensor.requires_grad, name
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, name


def refuses(path, *expected, **options):
    """Assert that `load` raises a one-line error with these texts, and return the message."""
    with pytest.raises(CheckpointError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for text in expected:
        assert text in message, message
    return message


def with_header(path, edit):
    """Replace the JSON header of a safetensors file by `edit(header)`."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    text = edit(data[8:end].decode())
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + data[end:])
    return path
