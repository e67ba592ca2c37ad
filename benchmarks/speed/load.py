"""`melfront benchmarks load`: a float16 Whisper on disk to a float32 encoder in memory.

Each load has a process of its own, in which only the libraries have been imported. The file has
just been written, so the system has it cached for every load.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..race import least, rounds
from .frontend import installed
from .own_process import in_process, peak
from .results import AGAIN, Row, Table, cores, to_json

OURS, THEIRS = "WhisperEncoder.from_pretrained", "transformers WhisperModel.from_pretrained"


def write(size: str, folder: str) -> None:
    """Write a whole Whisper in float16 as transformers saves it, the encoder from the formula."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    from melfront import encoder

    dims = encoder.SIZES[size]
    layers = {"decoder_layers": dims.n_audio_layer, "decoder_attention_heads": dims.n_audio_head}
    config = WhisperConfig(**{**dims.to_hf(), **layers, "decoder_ffn_dim": dims.n_audio_mlp})
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config).half()
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.fill_((i % 7 - 3) / 1000)
        weights = encoder.WhisperEncoder.from_formula(dims, dtype=torch.float16).state_dict()
        names = {encoder.checkpoint.hf_name(name): x for name, x in weights.items()}
        model.model.encoder.load_state_dict(names)
    model.tie_weights()
    model.save_pretrained(folder, max_shard_size="100GB")


def load(name: str, folder: str) -> dict[str, float]:
    """Seconds and peak bytes of one load in this process, and a sum over its weights."""
    import torch

    if name == OURS:
        from melfront.encoder import WhisperEncoder

        before, start = peak(reset=True), time.perf_counter()
        model: Any = WhisperEncoder.from_pretrained(folder, dtype=torch.float32)
    else:
        from transformers import WhisperModel

        before, start = peak(reset=True), time.perf_counter()
        model = WhisperModel.from_pretrained(folder, dtype=torch.float32).encoder
    seconds, held = time.perf_counter() - start, peak() - before
    total = sum(p.double().abs().sum().item() for p in model.parameters())
    return {"seconds": seconds, "bytes": held, "sum": total}


def measure(work: str, seconds: float, threads: int) -> list[dict[str, Any]]:
    """Run a work; its tables as JSON."""
    names = [OURS]
    if installed("transformers"):
        names += [THEIRS, THEIRS + AGAIN]
    times: dict[str, list[float]] = {name: [] for name in names}
    held: dict[str, list[float]] = {name: [] for name in names}
    sums = set()
    with tempfile.TemporaryDirectory() as folder:
        in_process(
            "melfront.benchmarks.speed.load:write", {"size": work, "folder": folder}, threads
        )
        size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
        for order in rounds(names, seconds, least(5, seconds)):
            for name in order:
                options = {"name": name.removesuffix(AGAIN), "folder": folder}
                got = in_process("melfront.benchmarks.speed.load:load", options, threads)
                times[name].append(got["seconds"])
                held[name].append(got["bytes"])
                sums.add(f"{got['sum']:.6e}")
    if len(sums) != 1:
        raise RuntimeError(f"the loaded weights differ: their sums are {sorted(sums)}")
    medians = {name: float(np.median(x)) / 1e9 for name, x in held.items()}
    lines = [f"{name}: {x:.2f} GB at the peak" for name, x in medians.items()]
    if THEIRS in medians:
        lines.append(f"peak memory, ours / theirs: {medians[OURS] / medians[THEIRS]:.2f}")
    rows = [Row(name, spent) for name, spent in times.items()]
    title = f"load {work}, {size / 1e9:.2f} GB of float16, as float32, {cores(threads)}"
    return to_json([Table(title, rows, [OURS], lines)])
