"""Randomly damaged checkpoints are loaded or refused in one line."""

import json
import random

import pytest
import torch

from melfront.encoder.checkpoint import CheckpointError, load
from tests.encoder.checkpoint.checkpoints import (
    NARROW,
    make,
    renamed,
    with_header,
    write,
    write_shards,
)

JUNK = [None, True, 0, -1, 10**30, 1.5, "", "x" * 2000, "\x1b[31m", "\ud800", [], [[]], {}, [1, 2]]


def mutate(value, random):
    """JSON with one value replaced, deleted or renamed."""
    parent, key = value, random.choice(list(value))
    while isinstance(parent[key], dict) and parent[key] and random.random() < 0.8:
        parent, key = parent[key], random.choice(list(parent[key]))
    change = random.randrange(3)
    if change == 0:
        parent[key] = random.choice(JUNK)
    elif change == 1:
        del parent[key]
    else:
        parent[str(random.choice(JUNK))] = parent.pop(key)
    return value


def spoil(data, random):
    """Change some bytes near the start, or truncate the data."""
    data = bytearray(data)
    for _ in range(random.choice([1, 2, 9])):
        place = random.randrange(min(len(data), 3000))
        data[place] = random.choice(b'[]{}:,"0' + bytes([data[place] ^ 1 << random.randrange(8)]))
    return bytes(data[: random.choice([len(data), len(data), random.randrange(len(data))])])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "kind", ["header", "config", "audio_config", "index", "bytes", "zip", "legacy"]
)
def test_every_mutation_loads_or_is_refused_in_one_line(tmp_path, kind, seed):
    draw = random.Random(f"{kind} {seed}")
    path = tmp_path / "model.safetensors"
    if kind == "index":
        write_shards(tmp_path, renamed(make()), NARROW, ".safetensors")
        path = tmp_path / "model.safetensors.index.json"
    elif kind in ("zip", "legacy"):
        path = tmp_path / "pytorch_model.bin"
        torch.save(renamed(make()), path, _use_new_zipfile_serialization=kind == "zip")
        path.with_name("config.json").write_text(json.dumps(NARROW.to_hf()))
    else:
        write(path, renamed(make()), NARROW)
    if kind.endswith("config"):
        path = path.with_name("config.json")
    if kind == "audio_config":
        path.write_text(json.dumps({"model_type": "other", "audio_config": NARROW.to_hf()}))
    whole, refused = path.read_bytes(), []
    for _ in range(20):
        path.write_bytes(whole)
        if kind == "header":
            with_header(path, lambda text: json.dumps(mutate(json.loads(text), draw)))
        elif kind.endswith(("config", "index")):
            path.write_text(json.dumps(mutate(json.loads(whole), draw)))
        else:
            path.write_bytes(spoil(whole, draw))
        try:
            load(tmp_path)
        except CheckpointError as error:
            refused.append(str(error))
    assert refused
    assert all(message.isprintable() and len(message) <= 1000 for message in refused)
