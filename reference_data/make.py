"""Makes the golden tensors of this folder, and MANIFEST.json, which lists them.

    python -m reference_data.make                     # everything: 15 minutes, 9 GB for large-v3
    python -m reference_data.make frontend toy tiny   # only these parts; the others stay

Parts: frontend, libraries, toy, the published sizes, and tiny.en, which needs trained weights: the
folder `whisper-tiny.en` in the folder that MELFRONT_SHARED names, or in `shared` beside the
checkout. A part whose weights or libraries are missing is left as it was.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import melfront
from melfront.command import to_the_width
from parity import libraries, signals, stages, tensors, toy
from parity.dump import N_FLOOR, as_real, at_positions, dump, noise_of_sample, noise_of_stage
from parity.sampling import N_SAMPLES
from parity.subject import of_signal
from parity.table import trained
from parity.truth import Subject, model_digest

HERE = Path(__file__).resolve().parent
FORMAT = 1
COMMAND = "python -m reference_data.make"
SIZES = ("tiny", "base", "small", "medium", "large-v2", "large-v3")
PARTS = ("frontend", "libraries", "toy", *SIZES, "tiny.en")
N_MELS = (80, 128)
KEPT_FRAMES = 816  # of the sample clip: all that hear it, 0 .. 811, and a few of the constant tail

# Of these stages a fixed sample of positions is kept: they are bulky, and a wrong one shows in the
# sample, or in the stage after it.
SAMPLED = ("frames", "windowed", "spectrum")
SAMPLED_TWICE = ("padded", *SAMPLED, "power")  # at 80 bins too, for they are whole at 128
LIBRARIES = (
    "transformers, torch path",
    "transformers, NumPy path",
    "openai-whisper",
    "faster-whisper",
)
PACKAGES = {libraries.find(name).package for name in LIBRARIES}
SHARED_DIMENSIONS = {
    "tiny": ["tiny.en"],
    "base": ["base.en"],
    "small": ["small.en", "distil-small.en"],
    "medium": ["medium.en", "distil-medium.en"],
    "large-v2": ["large", "large-v1", "distil-large-v2"],
    "large-v3": ["large-v3-turbo", "turbo", "distil-large-v3"],
}


def write(
    path: Path, arrays: Mapping[str, Any], about: dict[str, str], dtype: str = "float32"
) -> None:
    """Write a safetensors file whose bytes depend on nothing but what is in it."""
    path.parent.mkdir(exist_ok=True)
    writer = tensors.Writer(
        path, path.suffix, {name: np.shape(values) for name, values in arrays.items()}, dtype
    )
    for name, values in arrays.items():
        writer.write(name, values)
    writer.close(about)


# --- front end ------------------------------------------------------------------------------------


def front_end(name: str, n_mels: int) -> tuple[dict[str, Any], dict[str, str]]:
    return golden(of_signal(name, n_mels), SAMPLED if n_mels == max(N_MELS) else SAMPLED_TWICE)


def golden(subject: Subject, sampled: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """Every front-end stage of a signal, whole or sampled, and what the file says of itself."""
    truth = {stage: as_real(values) for stage, values in subject.front_end_truth.items()}
    port = subject.right_port(truth, "float32")
    floors = {}
    for stage, values in truth.items():
        measured = noise_of_sample if stage in sampled else noise_of_stage
        pair = [at_positions(stage, x, N_FLOOR) for x in (values, as_real(port[stage]))]
        floors[stage] = measured(stage, values.shape, *pair)
    kept = {s: at_positions(s, x, N_SAMPLES) if s in sampled else x for s, x in truth.items()}
    return kept, describe(subject) | {
        "floors": json.dumps(floors),
        "norms": json.dumps({s: float(np.linalg.norm(truth[s])) for s in sampled}),
        "sampled": json.dumps({s: truth[s].shape for s in sampled}),
    }


def describe(subject: Subject) -> dict[str, str]:
    about = {
        "format": tensors.FORMAT,
        "clip": subject.clip_name,
        "clip_sha256": subject.clip_digest,
        "n_mels": str(subject.n_mels),
        "convention": subject.convention.name,
        "pad_to": str(subject.pad_to),
        "dtype": "float64",
    }
    if subject.model:
        about |= {"model": subject.model_name, "model_sha256": model_digest(subject.model)}
    return about


def sample_features() -> tuple[dict[str, Any], dict[str, str]]:
    """The features of the sample clip at 80 and 128 bins: its frames, and the constant after."""
    kept: dict[str, Any] = {}
    floors = {}
    for n_mels in N_MELS:
        subject = of_signal("sample", n_mels)
        features = subject.front_end_truth["features"]
        assert np.ptp(features[:, KEPT_FRAMES:]) == 0
        kept[f"features.{n_mels}"] = features[:, :KEPT_FRAMES]
        kept[f"tail.{n_mels}"] = features[:1, -1]
        floors[f"features.{n_mels}"] = subject.floors({"features": features}, "float32")["features"]
    about = describe(subject)
    del about["n_mels"]
    return kept, about | {"floors": json.dumps(floors)}


def make_frontend() -> None:
    for name in signals.SHORT:
        for n_mels in N_MELS:
            write(HERE / "frontend" / f"{name}.{n_mels}.safetensors", *front_end(name, n_mels))
    write(HERE / "frontend" / "sample.safetensors", *sample_features())


# --- libraries ------------------------------------------------------------------------------------


def key(library: str, n_mels: int) -> str:
    """`transformers-torch-path.80`: a tensor's name for "transformers, torch path"."""
    return f"{library.replace(', ', '-').replace(' ', '-').lower()}.{n_mels}"


def library_features(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    kept, versions = {}, {}
    for title in LIBRARIES:
        library = libraries.find(title)
        versions[library.package] = str(libraries.version(library.package))
        for n_mels in N_MELS:
            case = libraries.case_of(of_signal(name, n_mels))
            kept[key(title, n_mels)] = library.run(case)
    return kept, {"clip": signals.PREFIX + name, "versions": json.dumps(versions)}


def make_libraries() -> None:
    missing = {package for package in PACKAGES if not libraries.version(package)}
    if missing:
        raise SystemExit(f"libraries: install {', '.join(sorted(missing))}")
    for name in signals.SHORT:
        write(HERE / "libraries" / f"{name}.safetensors", *library_features(name))


# --- encoders -------------------------------------------------------------------------------------


def toy_stages(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Every stage of a toy encoder, whole, after those of the front end that feeds it."""
    subject = of_signal("toy", toy.TOY.n_mels, toy.load(name), f"formula:{name}")
    kept, about = golden(subject, SAMPLED)
    names = stages.encoder_names(toy.TOY.n_audio_layer)
    truth = subject.encoder_truth(names)
    floors = json.loads(about["floors"]) | subject.floors(truth, "float32")
    return kept | {stage: truth[stage] for stage in names}, about | {"floors": json.dumps(floors)}


def make_toy() -> None:
    for name in toy.NAMES:
        path = HERE / "encoder" / f"{name}.safetensors"
        write(path, *toy_stages(name), dtype="float64")


def make_size(file: str, model: str, public: str) -> None:
    """256 positions of each stage of a whole model on the sample clip."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump.safetensors"
        dump(path, model=model, sample=True)
        settle(path, HERE / "encoder" / f"{file}.safetensors", public)


def settle(path: Path, target: Path, model: str) -> None:
    """A dump of samples rounded to float32, under the model's public name."""
    held = tensors.read(path)
    about = held.metadata | {"model": model}
    for package in ("melfront", "numpy", "torch"):  # MANIFEST.json has them
        about.pop(package, None)
    order = list(held.sampled)
    write(target, {stage: held.tensors[stage].values for stage in order}, about)


# --- manifest -------------------------------------------------------------------------------------


def manifest() -> dict[str, Any]:
    """What is in the folder: every file and tensor with its SHA-256, and how it came about."""
    files = sorted(HERE.glob("*/*.safetensors"))
    return {
        "format": FORMAT,
        "command": COMMAND,
        "about": "Float64 truth of every stage, rounded to float32; the toy encoders in float64. "
        "README.md says how to read it.",
        "versions": {
            "melfront": melfront.__version__,
            **{p: libraries.version(p) for p in ("numpy", "scipy", "torch", "safetensors")},
            **{
                p: libraries.version(p)
                for p in sorted({libraries.find(n).package for n in LIBRARIES})
            },
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
            name: {"formula": s.formula, "pad_to": s.pad_to, "shows": s.shows}
            for name, s in signals.SIGNALS.items()
        },
        "models": {
            "toy": "formula weights (encoder/formula.py); dimensions " + str(toy.TOY),
            "toy-quiet": "the same with conv1, conv2 and the positions, weights and biases, over "
            f"2^{toy.QUIET_BITS}",
            **{
                size: f"formula weights; the dimensions are also those of {', '.join(others)}"
                for size, others in SHARED_DIMENSIONS.items()
            },
            "tiny.en": "openai/whisper-tiny.en, trained weights",
        },
        "sample.flac": sha256((HERE / "sample.flac").read_bytes()),
        "files": {str(path.relative_to(HERE).as_posix()): listing(path) for path in files},
    }


def listing(path: Path) -> dict[str, Any]:
    """One file of the manifest."""
    held = tensors.read(path)
    sampled, floors = held.sampled, held.floors
    entries: dict[str, dict[str, Any]] = {}
    for name, tensor in sorted(held.tensors.items()):
        dtype = tensor.values.dtype.newbyteorder("<")
        entries[name] = {
            "shape": list(sampled.get(name, tensor.values.shape)),
            "sha256": sha256(np.ascontiguousarray(tensor.values, dtype).tobytes()),
        }
        if name in sampled:
            entries[name]["sampled"] = tensor.values.size
        if name in floors:
            entries[name]["floor"] = float(f"{floors[name]:.6g}")
    return {"bytes": path.stat().st_size, "sha256": sha256(path.read_bytes()), "tensors": entries}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def text_of(what: Any, margin: str = "") -> str:
    """JSON with one line for each tensor."""
    if not isinstance(what, dict) or ("sha256" in what and "shape" in what):
        return json.dumps(what, ensure_ascii=False)
    inside = margin + " "
    lines = [f"{inside}{json.dumps(k)}: {text_of(v, inside)}" for k, v in what.items()]
    return "{\n" + ",\n".join(lines) + f"\n{margin}}}"


def make(part: str) -> None:
    if part in SIZES:
        make_size(part, f"formula:{part}", f"formula:{part}")
    elif part == "tiny.en":
        folder = trained()
        if folder is None:
            print("tiny.en: no trained weights here; what is committed stays")
        else:
            make_size(part, str(folder), "openai/whisper-tiny.en")
    else:
        {"frontend": make_frontend, "libraries": make_libraries, "toy": make_toy}[part]()


@to_the_width()
def main(arguments: list[str]) -> int:
    unknown = sorted(set(arguments) - set(PARTS))
    if unknown:
        print(f"no part {', '.join(unknown)}; expected some of {', '.join(PARTS)}", file=sys.stderr)
        return 2
    for part in arguments or PARTS:
        print(part, flush=True)
        make(part)
    (HERE / "MANIFEST.json").write_text(text_of(manifest()) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
