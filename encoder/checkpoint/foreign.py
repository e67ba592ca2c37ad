"""Says what a file or a folder is that is not read, and what to give in its place.

Files are known by their first bytes, or by their names where the format has no mark of its own;
what is inside a checkpoint, by the names of its tensors.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

SOURCE = "give the checkpoint that it was made from, such as openai/whisper-tiny"
LORA = (
    "LoRA weights that are not merged: model.merge_and_unload().save_pretrained(FOLDER) of "
    "PEFT's model, and give FOLDER"
)
CTRANSLATE2 = f"a CTranslate2 model, as faster-whisper has them: {SOURCE}"
ONNX = f"an ONNX graph, whose weights have lost their names: {SOURCE}"
BESIDE = "give the folder or the file with the model's weights, such as model.safetensors"
TRAINER = f"what a training run keeps beside the weights: {BESIDE}"
COREML = f"a Core ML model: {SOURCE}"
TENSORRT = f"a TensorRT engine, compiled for one GPU: {SOURCE}"
TENSORFLOW = "TensorFlow weights: TFWhisperModel.from_pretrained of transformers 4 reads them; "
FLAX = "Flax weights: WhisperModel.from_pretrained(FOLDER, from_flax=True) of transformers 4, then "
DEEPSPEED = "DeepSpeed's shards of a training run: run its zero_to_fp32.py FOLDER OUT, and give OUT"
DISTRIBUTED = (
    "PyTorch's distributed shards: run `accelerate merge-weights FOLDER OUT`, and give OUT"
)
SAVE = "save_pretrained(FOLDER), and give FOLDER"

# What the first bytes are, at which place.
MAGIC = (
    (0, b"GGUF", f"a GGUF file of llama.cpp: {SOURCE}"),
    (0, b"\x89HDF\r\n\x1a\n", f"HDF5, most likely {TENSORFLOW}{SOURCE}"),
    (4, b"TFL3", f"a TensorFlow Lite model: {SOURCE}"),
    (4, b"ET12", f"an ExecuTorch program: {SOURCE}"),
    (4, b"ORTM", ONNX),
    (0, b"ftrt", TENSORRT),
    (6, b"WhisperSpec\0", CTRANSLATE2),
    (0, b"<!DOCTYPE", "a web page, not the weights: download the file itself"),
    (0, b"<!doctype", "a web page, not the weights: download the file itself"),
    (0, b"<html", "a web page, not the weights: download the file itself"),
    (0, b"\x1f\x8b", "a compressed archive: unpack it, and give what is in it"),
)
# Names of files and folders, in this order.
NAMES = tuple(
    (re.compile(pattern, re.IGNORECASE), what)
    for pattern, what in (
        (r"adapter_(model|config)\.\w+", f"a PEFT adapter: {LORA}"),
        (r"\w*(zero_pp_rank|mp_rank|model_states)\w*\.pt|zero_to_fp32\.py", DEEPSPEED),
        (r".+\.distcp|\.metadata|pytorch_model_fsdp_\d+", DISTRIBUTED),
        (r"(training_args|optimizer|scheduler|scaler|rng_state\w*)\.(bin|pt|pth)", TRAINER),
        (r".+\.(onnx|ort)(_data|\.data)?", ONNX),
        (r".+\.msgpack", FLAX + SAVE),
        (r".+\.h5|saved_model\.pb|.+\.keras", f"{TENSORFLOW}{SOURCE}"),
        (r".+\.(mlpackage|mlmodelc?)", COREML),
        (r".*openvino.*\.(xml|bin)", f"an OpenVINO model: {SOURCE}"),
        (r".+\.(engine|plan|trt)", TENSORRT),
        (r".+\.pt2", f"a program of torch.export: {SOURCE}"),
        (r".+\.tflite", f"a TensorFlow Lite model: {SOURCE}"),
        (r".+\.gguf", f"a GGUF file of llama.cpp: {SOURCE}"),
        (r".+\.(zip|tar|tgz|gz|7z)", "an archive: unpack it, and give what is in it"),
        (r".+\.(json|ya?ml|txt|md|py)", "not a file of weights: give its folder, or the weights"),
    )
)
# The ends of tensors' names; what they are of.
TENSORS = tuple(
    (re.compile(pattern), what)
    for pattern, what in (
        (r"[._](lora|lokr|hada|oft|vera)_|\.base_layer\.|\.modules_to_save\.", LORA),
        (r"\.g_idx$", f"weights quantised by GPTQ: {SOURCE}"),
        (r"\.(qweight|qzeros)$", f"weights quantised by AWQ or GPTQ: {SOURCE}"),
        (
            r"\.(absmax|quant_map|SCB|nested_absmax)$",
            f"weights quantised by bitsandbytes: {SOURCE}",
        ),
        (r"\.weight_(packed|scale(_inv)?|zero_point)$", f"quantised weights: {SOURCE}"),
        (r"\.weight\._(data|scale)$|\.W_q$", f"quantised weights: {SOURCE}"),
        (
            r"\.(scales|biases)$",
            "weights quantised by MLX: give the repository without -4bit or -8bit in its name",
        ),
        (
            r"\._(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.",
            "names that torch.compile or FSDP lengthened in the middle: take '_orig_mod.', "
            "'_fsdp_wrapped_module.' and '_checkpoint_wrapped_module.' out of them",
        ),
    )
)
ANY = re.compile("|".join(pattern.pattern for pattern, _ in TENSORS))


def file_kind(path: Path, start: bytes) -> str | None:
    """What a file is that is not read, with the way to one that is; None if it may be read.

    start: its first 24 bytes.
    """
    for place, mark, what in MAGIC:
        if start[place:].startswith(mark):
            return what
    if path.suffix == ".bin" and path.with_suffix(".xml").is_file():
        return f"the weights of an OpenVINO model, beside its .xml: {SOURCE}"
    if path.suffix == ".xml" and path.with_suffix(".bin").is_file():
        return f"an OpenVINO model: {SOURCE}"
    return _named(path.name)


def _named(name: str) -> str | None:
    return next((what for pattern, what in NAMES if pattern.fullmatch(name)), None)


def folder_kind(folder: Path, suffixes: tuple[str, ...], usual: tuple[str, ...]) -> str | None:
    """What a folder without the usual files of weights holds, as "it has ...: do this"."""
    if what := _named(folder.name):
        return f"it is {what}"
    paths = sorted(folder / name for name in itertools.islice(_listing(folder), 1000))
    kinds = {path: _kind_on_disk(path) for path in paths}
    files = [path for path in paths if path.suffix in suffixes and not kinds[path]]
    if files := [path for path in files if path.is_file()]:
        only = f"{files[0].name} and {len(files) - 1} more" if files[1:] else files[0].name
        return f"it has only {only}: give the file itself, such as {files[0]}"
    inner = [path for path in paths if path.is_dir() and any((path / x).is_file() for x in usual)]
    if inner:  # checkpoint-500 comes after checkpoint-1500 by name, and before it by number
        newest = max(inner, key=lambda path: [int(n) for n in re.findall(r"\d{1,9}", path.name)])
        return f"give the folder inside it: {newest}"
    return _first((path.name, what) for path, what in kinds.items())


def repository_kind(names: Iterable[str], suffixes: tuple[str, ...]) -> str | None:
    """The same of a repository on the Hub, by the names of its files alone."""
    kinds = {name: _named(PurePosixPath(name).name) for name in sorted(names)}
    kinds |= {name: CTRANSLATE2 for name in kinds if name == "model.bin"}
    if found := _first(kinds.items()):
        return found
    files = (name for name, what in kinds.items() if name.endswith(suffixes) and not what)
    return next((f"run `hf download` for its {name}, and give that file" for name in files), None)


def _first(kinds: Iterable[tuple[str, str | None]]) -> str | None:
    """The file that tells most, in the order of the tables. Documents are in every folder."""
    found = {what: name for name, what in reversed(list(kinds)) if what}
    order = [what for _, what in NAMES[:-1]] + [what for _, _, what in MAGIC]
    return next((f"it has {found[what]}, {what}" for what in order if what in found), None)


def _listing(folder: Path) -> Iterable[str]:
    with os.scandir(folder) as entries:
        yield from (entry.name for entry in entries)


def _kind_on_disk(path: Path) -> str | None:
    if path.is_dir():
        inside = itertools.islice(_listing(path), 100) if path.name == "onnx" else ()
        return _named(path.name) or next(filter(None, map(_named, sorted(inside))), None)
    try:
        if not path.is_file():  # to open a pipe would wait for its other end
            return None
        with path.open("rb") as file:
            return file_kind(path, file.read(24))
    except OSError:
        return None


def tensors_kind(names: Iterable[str]) -> str | None:
    """What these tensors are, if not the plain weights of a model."""
    odd = [name for name in names if ANY.search(name)]
    found = (what for pattern, what in TENSORS if any(map(pattern.search, odd)))
    return next(found, None)
