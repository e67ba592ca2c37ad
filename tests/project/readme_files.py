"""Create the files that the READMEs' commands use: clips, checkpoints and tensors of ports."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import melfront
from melfront.encoder import SIZES, WhisperEncoder, ops
from melfront.encoder.checkpoint import hf_name, save_hf, shapes
from melfront.parity.signals import SIGNALS
from tests.conftest import CHECKOUT
from tests.signals import sample


def stand_in(name: str) -> None:
    """Write formula weights to a local folder of this name, which takes precedence over the Hub."""
    config = SIZES[name.removeprefix("openai/whisper-")]
    if config.n_audio_layer <= 4:
        save_hf(name, config, WhisperEncoder.from_formula(config).state_dict())
        return
    # The weights of all blocks but the first are zeros, in holes of the file that take no disk.
    weights = WhisperEncoder.from_formula(replace(config, n_audio_layer=1)).state_dict()
    header, end = {}, 0
    for key, shape in shapes(config).items():
        begin, end = end, end + 4 * math.prod(shape)
        entry = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
        header[f"model.encoder.{hf_name(key)}"] = entry
    text = json.dumps(header).encode()
    Path(name).mkdir(parents=True)
    with Path(f"{name}/model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for key, tensor in weights.items():
            begin, _ = header[f"model.encoder.{hf_name(key)}"]["data_offsets"]
            file.seek(8 + len(text) + begin)
            file.write(tensor.numpy().tobytes())
    Path(f"{name}/config.json").write_text(json.dumps(config.to_hf()))


# A user's port that uses numpy.hanning, a symmetric window.
PORT = """
from dataclasses import replace

import melfront


def my_log_mel(audio, n_mels=128):
    wrong = replace(melfront.CONVENTIONS["transformers"], periodic=False)
    return melfront.variants.log_mel(audio, n_mels=n_mels, convention=wrong).astype("float32")
"""


def symmetric_window() -> dict[str, np.ndarray]:
    scope: dict[str, Any] = {}
    exec(PORT, scope)
    return {"log_mel": scope["my_log_mel"](sample(), n_mels=80)}


def unscaled_scores() -> dict[str, np.ndarray]:
    """Some stages of a port whose attention scores are not divided by sqrt(head_dim)."""
    inside = ["attn_ln", "attn.v", "attn.scores", "attn.context", "attn.out"]
    inside += ["attn_residual", "mlp_residual"]
    names = ["positions", *(f"block.0.{name}" for name in inside), "ln_post"]
    kept = {}

    def keep(stage, tensor):
        if stage in names:
            kept[stage] = tensor[0].numpy()
        return tensor

    model = WhisperEncoder.from_formula(SIZES["tiny"])
    mel = melfront.log_mel(sample(), n_mels=80)
    wrong = {"scores": lambda q, k: q @ k.mT, "attention": ops.explicit_attention}
    with ops.using(**wrong), torch.inference_mode():
        model(mel, tap=keep)
    return kept


def right_hidden_states() -> dict[str, np.ndarray]:
    model = WhisperEncoder.from_formula(SIZES["tiny"])
    with torch.inference_mode():
        out = model(melfront.log_mel(sample(), n_mels=80))
    return {"last_hidden_state": out.last_hidden_state[0].numpy()}


def right_features_of_speech() -> dict[str, np.ndarray]:
    clip = SIGNALS["speech"]
    return {"features": melfront.log_mel(clip.make(), pad_to=clip.pad_to)}


def prepare(text: str) -> None:
    """Create in the current folder every file that a block of commands uses."""
    for name in set(re.findall(r"\w+/[\w./-]*\w\.\w+", text)):
        if (CHECKOUT / name).is_file():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, name)
    for name in set(re.findall(r"openai/whisper-[\w.-]*\w", text)):
        stand_in(name)
    if "clip.wav" in text:
        soundfile = pytest.importorskip("soundfile")

        soundfile.write("clip.wav", sample(), 16_000, subtype="FLOAT")
    if "mine.npz" in text and "speech.128" in text:
        np.savez("mine.npz", **right_features_of_speech())
    elif "mine.npz" in text:
        np.savez("mine.npz", **symmetric_window())
    if "hidden.npz" in text:
        np.savez("hidden.npz", **right_hidden_states())
    if "stages.npz" in text:
        np.savez("stages.npz", **unscaled_scores())
