"""What is not read is said to be what it is, with the way to what is read."""

import struct

import pytest
import torch

from melfront.encoder.checkpoint import load
from tests.encoder.checkpoint.checkpoints import (
    BARE,
    NARROW,
    assert_same,
    make,
    refuses,
    renamed,
    under,
    write,
    write_shards,
)
from tests.encoder.checkpoint.stand_in import COMMITS, NAME, connected

# --- what is not read -----------------------------------------------------------------------------


FILES = {
    "a.gguf": (b"GGUF\3\0\0\0", "a GGUF file of llama.cpp"),
    "mmproj.bin": (b"GGUF\3\0\0\0", "a GGUF file of llama.cpp"),
    "tf_model.h5": (b"\x89HDF\r\n\x1a\n", "TensorFlow"),
    "flax_model.msgpack": (b"\x83", "Flax weights: WhisperModel.from_pretrained(FOLDER, from_flax"),
    "model.bin": (struct.pack("<IH", 6, 12) + b"WhisperSpec\0", "a CTranslate2 model"),
    "encoder_model.onnx": (bytes(64), "an ONNX graph"),
    "encoder_model_quantized.onnx": (bytes(64), "an ONNX graph"),
    "model.ort": (bytes(4) + b"ORTM", "an ONNX graph"),
    "model.tflite": (bytes(4) + b"TFL3", "a TensorFlow Lite model"),
    "encoder.pte": (bytes(4) + b"ET12", "an ExecuTorch program"),
    "encoder.engine": (b"ftrt", "a TensorRT engine"),
    "encoder.plan": (b"abcd", "a TensorRT engine"),
    "encoder.mlmodel": (b"\x08", "a Core ML model"),
    "encoder.pt2": (b"PK", "a program of torch.export"),
    "openvino_encoder_model.xml": (b"<?xml", "an OpenVINO model"),
    "openvino_encoder_model.bin": (bytes(9), "an OpenVINO model"),
    "adapter_model.safetensors": (bytes(9), "a PEFT adapter: LoRA weights that are not merged"),
    "adapter_model.bin": (bytes(9), "a PEFT adapter: LoRA weights that are not merged"),
    "training_args.bin": (bytes(9), "what a training run keeps beside the weights: give the "),
    "optimizer.pt": (bytes(9), "what a training run keeps beside the weights: give the "),
    "rng_state_0.pth": (bytes(9), "what a training run keeps beside the weights: give the "),
    "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt": (bytes(9), "DeepSpeed's shards"),
    "mp_rank_00_model_states.pt": (bytes(9), "DeepSpeed's shards"),
    "__0_0.distcp": (bytes(9), "PyTorch's distributed shards: run `accelerate merge-weights"),
    "model.safetensors": (b"<!DOCTYPE html>", "a web page, not the weights"),
    "model.tar.gz": (b"\x1f\x8b", "archive: unpack it"),
    "model.pt": (b"\x1f\x8b", "a compressed archive: unpack it"),
    "config.json": (b"{}", "not a file of weights: give its folder"),
}


@pytest.mark.parametrize("file", FILES)
def test_files_of_other_programs(tmp_path, file):
    """Given itself, and in its folder beside what is in every folder."""
    start, says = FILES[file]
    path = tmp_path / file
    path.write_bytes(start)
    refuses(path, f"{path} is ", says)
    for other in ("README.md", "vocab.json", "preprocessor_config.json"):
        (tmp_path / other).write_text("{}")
    if file == "config.json":
        refuses(tmp_path, f"{tmp_path} has no weights; looked for ")
    elif file != "model.safetensors":
        refuses(tmp_path, f"{tmp_path} has no weights; it has {file}, ", says)


def test_weights_of_openvino_under_any_name(tmp_path):
    for name in ("encoder.xml", "encoder.bin"):
        (tmp_path / name).write_bytes(b"<net>")
    refuses(tmp_path / "encoder.bin", "the weights of an OpenVINO model, beside its .xml")
    refuses(tmp_path / "encoder.xml", "an OpenVINO model")


def test_a_name_that_another_program_uses_too(tmp_path):
    assert_same(load(write(tmp_path / "model.bin", renamed(make()), NARROW))[1], make())


@pytest.mark.parametrize("name", ["encoder.mlpackage", "encoder.mlmodelc"])
def test_folders_of_core_ml(tmp_path, name):
    (tmp_path / name).mkdir()
    refuses(tmp_path / name, "has no weights; it is a Core ML model: give ")
    refuses(tmp_path, f"has no weights; it has {name}, a Core ML model: give ")


def test_folders_of_other_programs(tmp_path):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "encoder_model.onnx").touch()
    (tmp_path / "config.json").write_text("{}")
    refuses(tmp_path, "has no weights; it has onnx, an ONNX graph")
    for name in ("optimizer.pt", "training_args.bin", "adapter_config.json", "adapter_model.bin"):
        (tmp_path / name).write_bytes(b"1")
    refuses(tmp_path, "has no weights; it has adapter_config.json, a PEFT adapter: LoRA weights")
    (tmp_path / "openvino").mkdir()
    for name in ("model.fp16.safetensors", "whisper.pt"):
        (tmp_path / name).write_bytes(b"1")
    refuses(
        tmp_path, "it has only model.fp16.safetensors and 1 more: give the file itself, such as"
    )
    (tmp_path / "whisper.pt").unlink()
    path = write(tmp_path / "model.fp16.safetensors", renamed(make()), NARROW)
    refuses(tmp_path, f"it has only {path.name}: give the file itself, such as {path}")
    assert_same(load(path)[1], make())


def test_folder_of_a_training_run(tmp_path):
    for step in (500, 1500):
        write(tmp_path / f"checkpoint-{step}" / "model.safetensors", renamed(make()), NARROW)
    (tmp_path / "trainer_state.json").write_text("{}")
    (tmp_path / "training_args.bin").write_bytes(b"1")
    refuses(tmp_path, f"give the folder inside it: {tmp_path}/checkpoint-1500")
    assert_same(load(tmp_path / "checkpoint-1500")[1], make())


# --- what is inside a file ------------------------------------------------------------------------


def wrapped(tensors, target, names):
    """The tensors with one wrapped: names are those that it has instead of "weight"."""
    (whole,) = (name for name in tensors if name.endswith(target + ".weight"))
    stem = whole.removesuffix("weight")
    return {n: x for n, x in tensors.items() if n != whole} | {
        stem + name: torch.zeros(2, 2) for name in names
    }


LORA = "LoRA weights that are not merged: model.merge_and_unload().save_pretrained("
INSIDE = {
    "peft": (["base_layer.weight", "lora_A.default.weight", "lora_B.default.weight"], LORA),
    "peft, no adapter": (["base_layer.weight"], LORA),
    "loralib": (["weight", "lora_A", "lora_B"], LORA),
    "gptq": (["qweight", "qzeros", "scales", "g_idx"], "weights quantised by GPTQ"),
    "awq": (["qweight", "qzeros", "scales"], "weights quantised by AWQ or GPTQ"),
    "nf4": (["weight", "weight.absmax", "weight.quant_map"], "weights quantised by bitsandbytes"),
    "int8": (["weight", "SCB"], "weights quantised by bitsandbytes"),
    "fp8": (["weight", "weight_scale"], "quantised weights"),
    "hqq": (["W_q"], "quantised weights"),
    "compile": (["_orig_mod.weight"], "take '_orig_mod.'"),
}


@pytest.mark.parametrize("prefix", ["model.encoder.", "base_model.model.model.encoder.", ""])
@pytest.mark.parametrize("kind", INSIDE)
def test_weights_that_are_wrapped_or_quantised(tmp_path, prefix, kind):
    names, says = INSIDE[kind]
    tensors = wrapped(under(prefix, make()), "layers.1.self_attn.q_proj", names)
    refuses(write(tmp_path / "model.safetensors", tensors, NARROW), "model.safetensors has ", says)
    refuses(write(tmp_path / "bare" / "pytorch_model.bin", tensors), "pytorch_model.bin has ", says)
    write_shards(tmp_path / "shards", tensors, NARROW, ".safetensors")
    refuses(tmp_path / "shards", "index.json has ", says)


def test_adapters_elsewhere_do_not_matter(tmp_path):
    """The encoder is whole; what another part of the model has is left out anyway."""
    tensors = under("audio_tower.", make()) | {
        "language_model.layers.0.q_proj.lora_A.default.weight": torch.zeros(2, 2),
        "language_model.layers.0.fc1.qweight": torch.zeros(2, 2),
    }
    assert_same(load(write(tmp_path / "a.safetensors", tensors, NARROW))[1], make())


def test_an_adapter_alone_under_another_name(tmp_path):
    names = ("base_model.model.model.encoder.layers.0.self_attn.q_proj.lora_A.weight",)
    path = write(tmp_path / "mine.safetensors", {name: torch.zeros(2, 2) for name in names})
    refuses(path, f"mine.safetensors has {LORA}")


def test_a_decoder_alone(tmp_path):
    path = write(tmp_path / "a.safetensors", {"model.decoder.layers.0.fc1.weight": torch.zeros(1)})
    refuses(path, "a.safetensors has a decoder alone: give a checkpoint of the whole")


@pytest.mark.parametrize("key", ["state_dict", "model", "module", "model_state_dict"])
def test_files_of_a_training_script(tmp_path, key):
    content = {
        key: under("model.model.encoder.", make(BARE)),
        "pytorch-lightning_version": "2.6",
        "epoch": 3,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}],
    }
    torch.save(content, tmp_path / "epoch=3.ckpt")
    config, weights = load(tmp_path / "epoch=3.ckpt")
    assert config == BARE
    assert_same(weights, make(BARE))


def test_state_of_an_optimizer(tmp_path):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))])
    torch.save(optimizer.state_dict(), tmp_path / "a.pt")
    refuses(tmp_path / "a.pt", "a.pt is the state of an optimizer: give the folder or the file")


def test_torchscript(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "a.pt")
    refuses(tmp_path / "a.pt", "a.pt is a TorchScript program: save its torch.jit.load(PATH)")


def test_ctranslate2_itself(tmp_path):
    """The beginning of a file that its own converter wrote."""
    specs = pytest.importorskip("ctranslate2.specs")
    spec = specs.whisper_spec.WhisperSpec(1, 2, 1, 2)
    start = struct.pack("<IH", 6, len(spec.name) + 1) + spec.name.encode() + b"\0"
    (tmp_path / "model.bin").write_bytes(start + bytes(99))
    refuses(tmp_path / "model.bin", "a CTranslate2 model, as faster-whisper has them: give the ")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["README.md", "model.bin", "tokenizer.json"], "it has model.bin, a CTranslate2 model"),
        (["onnx/encoder_model.onnx", "config.json"], "it has onnx/encoder_model.onnx, an ONNX"),
        (["ggml-tiny.bin"], "run `hf download` for its ggml-tiny.bin, and give that file"),
        (["model.fp16.safetensors", "a.json"], "hf download` for its model.fp16.safetensors, and"),
        (["README.md"], "looked for model.safetensors, "),
    ],
)
def test_repositories_on_the_hub(tmp_path, monkeypatch, names, says):
    with connected(tmp_path, monkeypatch) as hub:
        hub.commits[COMMITS[0]] = {"README.md": b"hello"}
        monkeypatch.setattr("huggingface_hub.list_repo_files", lambda *_, **__: names)
        refuses(NAME, f"{NAME} has no weights; ", says)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        refuses("someone/else", "the Hub cannot be reached")
