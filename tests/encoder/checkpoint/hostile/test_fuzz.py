"""Damaged headers, indexes, configs and pickles load, or end in one line, within the limits.

By hand, for longer: HOSTILE_EXAMPLES=20000 pytest -m slow, and this file.
"""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.encoder.checkpoint.checkpoints import (
    NARROW,
    OPENAI,
    SQUARE,
    dims,
    make,
    renamed,
    under,
    write,
    write_shards,
)
from tests.encoder.checkpoint.hostile.limits import outcome, pushed, split, with_text

LONG = int(os.environ.get("HOSTILE_EXAMPLES", "1000"))
COUNTS = [40, pytest.param(LONG, marks=pytest.mark.slow)]
WEIGHTS, INDEX, BIN = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"

SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, -1, 3, 26, 100_000, 1 << 31, 1 << 62, 10**30])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9)
    | st.sampled_from(["x" * 9000, "\x1b[31m", "\ud800", "../x", "whisper", "gelu", "F32"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
# What a pickle of PyTorch is made of, and what it should not be.
STEPS = [
    bytes([step]) for step in b"().0KMNQR[]abcdehjqrstu}\x81\x82\x85\x86\x87\x88\x89\x8a\x93\x94"
]
STEPS += [pushed(value) for value in ("storage", "cpu", "0", 26, -1, 1 << 62, (26,), [], {})]
STEPS += [f"c{module}\n{name}\n".encode() for module, name in (
    ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_sparse_tensor"),
    ("torch._utils", "_rebuild_parameter"), ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch", "FloatStorage"), ("collections", "OrderedDict"), ("os", "system"),
)]  # fmt: skip


def changed(value, draw):
    """JSON with one value replaced, added, renamed or removed."""
    parent, key = value, draw(st.sampled_from(sorted(value)))
    while isinstance(parent[key], dict | list) and parent[key] and draw(st.booleans()):
        parent = parent[key]
        keys = sorted(parent) if isinstance(parent, dict) else range(len(parent))
        key = draw(st.sampled_from(keys))
    how = draw(st.sampled_from(["replace", "rename", "remove"]))
    if how == "replace":
        parent[key] = draw(VALUES)
    elif how == "remove" or isinstance(parent, list):
        del parent[key]
    else:
        parent[draw(st.text(max_size=9))] = parent.pop(key)
    return json.dumps(value)


def flipped(data, draw):
    """A few bytes of the beginning, of the end or of the middle changed; perhaps cut short."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, min(len(data), 3000) - 1) | st.integers(0, len(data) - 1))
        place = len(data) - 1 - place if draw(st.booleans()) else place
        if draw(st.booleans()):
            data[place] ^= 1 << draw(st.integers(0, 7))
        else:
            data[place : place + 4] = struct.pack("<I", draw(st.integers(0, (1 << 32) - 1)))
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


def with_steps(data, draw):
    """A pickle with some steps more, or in the place of others."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data)))
        step = draw(st.sampled_from(STEPS) | st.integers(0, 255).map(lambda byte: bytes([byte])))
        data = data[:place] + step + data[place + draw(st.sampled_from([0, 0, 1, 9])) :]
    return data


def damage(path, how, draw):
    whole = path.read_bytes()
    if how == "bytes":
        path.write_bytes(flipped(whole, draw))
    elif how == "JSON":
        path.write_text(changed(json.loads(whole), draw))
    elif how == "header":
        about, data = split(path)
        with_text(path, changed(about, draw), data)
    elif how == "old pickle":  # those that come before the storages
        end = whole.index(pickle.dumps(1001, 2))
        path.write_bytes(
            whole[:end] + with_steps(whole[end : end + 9000], draw) + whole[end + 9000 :]
        )
    else:
        with zipfile.ZipFile(io.BytesIO(whole)) as file:
            members = {name: file.read(name) for name in file.namelist()}
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                is_pickle = name.endswith("/data.pkl")
                file.writestr(name, with_steps(content, draw) if is_pickle else content)


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """A folder of each form of a checkpoint."""
    root = tmp_path_factory.mktemp("whole")
    write(root / "safetensors" / WEIGHTS, renamed(make()), NARROW)
    write_shards(root / "shards", renamed(make()), NARROW, ".safetensors")
    write(root / "pickle" / BIN, renamed(make()), NARROW)
    state = {"dims": dims(SQUARE), "model_state_dict": renamed(make(SQUARE), OPENAI, "encoder.")}
    write(root / "openai" / BIN, state)
    write(root / "tower" / WEIGHTS, under("audio_tower.", make()), NARROW)
    about = {"model_type": "other", "audio_config": NARROW.to_hf()}
    (root / "tower" / "config.json").write_text(json.dumps(about))
    write(root / "old" / BIN, {}, NARROW)
    torch.save(renamed(make()), root / "old" / BIN, _use_new_zipfile_serialization=False)
    return root


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("form", "file", "how"), [
    ("safetensors", WEIGHTS, "header"), ("safetensors", WEIGHTS, "bytes"),
    ("safetensors", "config.json", "JSON"), ("safetensors", "config.json", "bytes"),
    ("tower", "config.json", "JSON"), ("shards", INDEX, "JSON"), ("shards", INDEX, "bytes"),
    ("pickle", BIN, "pickle"), ("pickle", BIN, "bytes"), ("openai", BIN, "pickle"),
    ("old", BIN, "old pickle"), ("old", BIN, "bytes"),
])  # fmt: skip
def test_every_damage_loads_or_is_refused_in_one_line(wholes, tmp_path, form, file, how, count):
    ends = []

    @settings(max_examples=count, deadline=None, database=None, derandomize=count == COUNTS[0],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.data())
    def fuzz(data):
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(wholes / form, folder)
        damage(folder / file, how, data.draw)
        ends.append(outcome(folder))

    assert outcome(wholes / form) is None
    fuzz()
    assert any(ends), "nothing was damaged"
