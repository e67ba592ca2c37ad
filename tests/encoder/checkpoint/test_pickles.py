"""What PyTorch can save of a state_dict is read without PyTorch's own reader."""

import json

import pytest
import torch

from melfront.encoder.checkpoint import load
from tests.encoder.checkpoint.checkpoints import NARROW, assert_same, make, renamed


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_parts_of_storages_in_pytorch_files(tmp_path, new, protocol):
    """Parameters, transposed, sliced, behind another tensor, tied in the decoder, in a subclass."""
    tensors = renamed(make())
    conv1, fc1 = "model.encoder.conv1.weight", "model.encoder.layers.0.fc1.weight"
    fc2, bias = "model.encoder.layers.1.fc2.weight", "model.encoder.layers.2.fc2.bias"
    tensors[conv1] = torch.nn.Parameter(tensors[conv1])
    tensors[fc1] = tensors[fc1].T.contiguous().T
    tensors[fc2] = torch.cat([torch.ones(26, 3), tensors[fc2], torch.ones(26, 2)], 1)[:, 3:-2]
    tensors[bias] = torch.cat([torch.zeros(5), tensors[bias]])[5:]
    tensors["model.decoder.x"] = tensors["model.decoder.y"] = tensors["proj_out.weight"]
    tensors["model.decoder.z"] = torch.nn.Buffer(torch.zeros(2))
    path = tmp_path / "a.bin"
    content = {"state_dict": tensors, "epoch": 3, "loss": 0.5, "lr": [1e-3], "name": "ü", "x": {4}}
    options = {"_use_new_zipfile_serialization": new, "pickle_protocol": protocol}
    torch.save(content, path, **options)
    path.with_name("config.json").write_text(json.dumps(NARROW.to_hf()))
    assert_same(load(path)[1], make())
    assert_same(load(path, dtype=torch.float16)[1], make(), torch.float16)
