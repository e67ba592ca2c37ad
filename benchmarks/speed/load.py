"""`melfront benchmarks load`: a float16 Whisper on disk to a float32 encoder in memory.

Each load has a process of its own, in which only the libraries have been imported. The file has
just been written, so the system has it cached for every load.
"""

from __future__ import annotations

import pkgutil
import time

import numpy as np
import torch

from melfront.command import scratch_folder

from ..machine import installed
from ..race import least, rounds
from .own_process import in_process, peak
from .results import AGAIN, Row, Table, cores

OURS, THEIRS = "WhisperEncoder.from_pretrained", "transformers WhisperModel.from_pretrained"
HERE = "melfront.benchmarks.speed.load"


def write(size: str, folder: str) -> None:
    """Write a whole Whisper in float16 as transformers saves it, the encoder from the formula."""
    from transformers import WhisperForConditionalGeneration

    from melfront.encoder import SIZES, WhisperEncoder

    from .encoder import hf_config, hf_weights

    dims = SIZES[size]
    config = hf_config(
        dims,
        decoder_layers=dims.n_audio_layer,
        decoder_attention_heads=dims.n_audio_head,
        decoder_ffn_dim=dims.n_audio_mlp,
    )
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config).half()
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.fill_((i % 7 - 3) / 1000)
        ours = WhisperEncoder.from_formula(dims, dtype=torch.float16)
        model.model.encoder.load_state_dict(hf_weights(ours))
    model.tie_weights()
    model.save_pretrained(folder, max_shard_size="100GB")


def load(name: str, folder: str) -> dict[str, float]:
    """Seconds and peak bytes of one load in this process, and a sum over its weights."""
    where = "melfront.encoder:WhisperEncoder" if name == OURS else "transformers:WhisperModel"
    library = pkgutil.resolve_name(where)
    before, start = peak(reset=True), time.perf_counter()
    model = library.from_pretrained(folder, dtype=torch.float32)
    seconds, held = time.perf_counter() - start, peak() - before
    weights = (model if name == OURS else model.encoder).parameters()
    return {
        "seconds": seconds,
        "bytes": held,
        "sum": sum(p.double().abs().sum().item() for p in weights),
    }


def measure(work: str, seconds: float, threads: int) -> list[Table]:
    """Run a work."""
    names = [OURS, *((THEIRS, THEIRS + AGAIN) if installed("transformers") else ())]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with scratch_folder() as folder:
        in_process(f"{HERE}:write", {"size": work, "folder": str(folder)}, threads)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        for order in rounds(names, seconds, least(5, seconds)):
            for name in order:
                options = {"name": name.removesuffix(AGAIN), "folder": str(folder)}
                runs[name].append(in_process(f"{HERE}:load", options, threads))
    sums = {f"{run['sum']:.6e}" for of_one in runs.values() for run in of_one}
    if len(sums) != 1:
        raise RuntimeError(f"the loaded weights differ: their sums are {sorted(sums)}")
    held = {n: float(np.median([run["bytes"] for run in runs[n]])) / 1e9 for n in names}
    lines = [f"{name}: {x:.2f} GB at the peak" for name, x in held.items()]
    if THEIRS in held:
        lines.append(f"peak memory, ours / theirs: {held[OURS] / held[THEIRS]:.2f}")
    rows = [Row(name, [run["seconds"] for run in of_one]) for name, of_one in runs.items()]
    title = f"load {work}, {size / 1e9:.2f} GB of float16, as float32, {cores(threads)}"
    return [Table(title, rows, [OURS], lines)]
