"""MANIFEST.json: every file and tensor of this folder with its SHA-256, and how it was made."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import melfront
from melfront import encoder
from melfront.audio import as_clips
from melfront.encoder.built_in import QUIET_BITS, TOY
from melfront.parity import signals
from melfront.parity.files import tensors
from melfront.parity.files.sampling import N_SAMPLES
from melfront.parity.noise import unit_line
from melfront.parity.pages import libraries
from melfront.parity.resolve import of_signal

HERE = Path(__file__).resolve().parent
FORMAT = 2
COMMAND = "python -m melfront.reference_data.make"
N_MELS = (80, 128)
MEASURED_ON = "floors_measured_on"
LIBRARIES = (
    "transformers, torch path",
    "transformers, NumPy path",
    "openai-whisper",
    "faster-whisper",
)
PACKAGES = {libraries.find(name).package for name in LIBRARIES}
SIZES = ("tiny", "base", "small", "medium", "large-v2", "large-v3")


def waveforms(name: str) -> dict[str, Any]:
    """The clips of a signal, not yet padded: one under its name, several under NAME.0, NAME.1."""
    clips = as_clips(signals.load(name))
    if not clips.batched:
        return {name: clips.arrays[0]}
    return {f"{name}.{i}": clip for i, clip in enumerate(clips.arrays)}


def clips_of(clip_name: str, length: int) -> dict[str, str]:
    """The names of the .wav files, and what each is padded to with zeros, in samples."""
    names = waveforms(clip_name.removeprefix(signals.PREFIX))
    return {"wav": " ".join(f"signals/{name}.wav" for name in names), "length": str(length)}


def manifest() -> dict[str, Any]:
    """Every file and tensor in the folder with its SHA-256, and how it was made."""
    files = sorted(HERE.glob("*/*.safetensors"))
    return {
        "format": FORMAT,
        "command": COMMAND,
        "about": "Float64 truth of every stage, rounded to float32; the toy encoders in float64. "
        f"A floor: {unit_line('several CPUs')}. README.md says how to read it.",
        "versions": {
            "melfront": melfront.__version__,
            **{p: libraries.version(p) for p in ("numpy", "scipy", "torch", "safetensors")},
            **{p: libraries.version(p) for p in sorted(PACKAGES)},
        },
        "python": ".".join(map(str, sys.version_info[:3])),
        "licence": {
            "sample.flac": "MIT, as this repository: synthesised from a text of ours by rules, "
            "with no recording of a person in it (make_sample.py)",
            "all else": "MIT, as this repository: computed",
        },
        "sampling": f"Of a sampled stage, {N_SAMPLES} positions: element j is flat index "
        "(z[j] mod size), z the splitmix64 sequence seeded with the FNV-1a of the stage's name",
        "signals": {
            name: {
                "formula": s.formula,
                "pad_to": s.pad_to,
                "shows": s.shows,
                **clips_of(name, of_signal(name, N_MELS[0]).length),
            }
            for name, s in signals.SIGNALS.items()
        },
        "models": {
            "toy": "formula weights (encoder/formula.py); dimensions " + str(TOY),
            "toy-quiet": "the same with conv1, conv2 and the positions, weights and biases, over "
            f"2^{QUIET_BITS}",
            **{
                size: f"formula weights; the dimensions are also those of {', '.join(alike(size))}"
                for size in SIZES
            },
            "tiny.en": "openai/whisper-tiny.en, trained weights",
        },
        "sample.flac": sha256((HERE / "sample.flac").read_bytes()),
        "wav": {p.name: sha256(p.read_bytes()) for p in sorted(HERE.glob("signals/*.wav"))},
        "files": {str(path.relative_to(HERE).as_posix()): listing(path) for path in files},
    }


def alike(size: str) -> list[str]:
    """The other published sizes whose encoder has the same dimensions."""
    dims = encoder.SIZES
    return [name for name in dims if name != size and dims[name] == dims[size]]


def listing(path: Path) -> dict[str, Any]:
    """One file of the manifest."""
    held = tensors.read(path)
    sampled, noise = held.sampled, held.floors
    entries: dict[str, dict[str, Any]] = {}
    for name, tensor in sorted(held.tensors.items()):
        dtype = tensor.values.dtype.newbyteorder("<")
        entries[name] = {
            "shape": list(sampled.get(name, tensor.values.shape)),
            "sha256": sha256(np.ascontiguousarray(tensor.values, dtype).tobytes()),
        }
        if name in sampled:
            entries[name]["sampled"] = tensor.values.size
        if name in noise:
            entries[name]["floor"] = float(f"{noise[name]:.6g}")
    said = {MEASURED_ON: held.metadata[MEASURED_ON]} if noise else {}
    file = {"bytes": path.stat().st_size, "sha256": sha256(path.read_bytes())}
    return file | said | {"tensors": entries}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def text_of(what: Any, margin: str = "") -> str:
    """JSON with one line for each tensor."""
    if not isinstance(what, dict) or ("sha256" in what and "shape" in what):
        return json.dumps(what, ensure_ascii=False)
    inside = margin + " "
    lines = [f"{inside}{json.dumps(k)}: {text_of(v, inside)}" for k, v in what.items()]
    return "{\n" + ",\n".join(lines) + f"\n{margin}}}"
