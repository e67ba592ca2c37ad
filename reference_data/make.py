"""Makes the golden tensors of this folder, and MANIFEST.json, which lists them.

    python -m melfront.reference_data.make                     # all: an hour, 9 GB for large-v3
    python -m melfront.reference_data.make frontend toy tiny   # only these parts; the others stay

Parts: signals, frontend, libraries, toy, the published sizes, and tiny.en, which needs trained
weights: the folder `whisper-tiny.en` in the folder that MELFRONT_SHARED names, or in `shared`
next to the checkout. A part whose weights or libraries are missing is left unchanged.

Each part is written with the noise measured in this process; `floors.py` then raises that to the
noise that other CPUs and another FFT would have.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

import melfront
from melfront.command import Parser, exit_status, replacing, scratch_folder
from melfront.encoder.built_in import TOY, TOYS
from melfront.parity import signals, stages
from melfront.parity.files import dump, tensors
from melfront.parity.files.sampling import as_real, at_positions
from melfront.parity.pages import libraries
from melfront.parity.pages.libraries_page import features_of
from melfront.parity.pages.mistakes_page import trained
from melfront.parity.pipeline import Pipeline, load_model
from melfront.parity.resolve import of_signal

from . import floors
from .manifest import (
    COMMAND,
    HERE,
    LIBRARIES,
    MEASURED_ON,
    N_MELS,
    PACKAGES,
    SIZES,
    clips_of,
    manifest,
    text_of,
    waveforms,
)

# The sample clip's features are kept for 816 frames: frame 811 is the last that hears the clip, and
# at 30 s all that follow are the same constant.
SAMPLE_SECONDS = 8.16
# Of these stages a fixed sample of positions is kept: they are large, and an error shows in the
# sample or in the next stage.
SAMPLED = ("frames", "windowed", "spectrum")
SAMPLED_TWICE = ("padded", *SAMPLED, "power")  # at 80 bins: the files at 128 hold them whole
IN_MANIFEST = ("melfront", "numpy", "torch")  # the versions, which a dump has in its metadata


def write(
    path: Path, arrays: Mapping[str, Any], about: dict[str, str], dtype: str = "float32"
) -> None:
    """Write a safetensors file whose bytes depend on its content alone."""
    path.parent.mkdir(exist_ok=True)
    shapes = {name: np.shape(values) for name, values in arrays.items()}
    with replacing(path) as temporary:  # the values may be those of the file itself
        writer = tensors.Writer(temporary, path.suffix, shapes, dtype)
        for name, values in arrays.items():
            writer.write(name, values)
        writer.close(dict(sorted(about.items())))


def parts_of(path: Path) -> tuple[dict[str, Any], dict[str, str], str]:
    """Undo `write`: the tensors in their order, the metadata, the dtype."""
    held = tensors.read(path)
    with path.open("rb") as file:
        order = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    del order[tensors.METADATA]
    dtype = {tensor.dtype for tensor in held.tensors.values()}.pop()
    return {name: held.tensors[name].values for name in order}, held.metadata, dtype


def raise_floors(paths: Iterable[Path]) -> None:
    """Raise each file's published noise to the largest that right computations have anywhere."""
    for path, noise in floors.largest(paths).items():
        arrays, about, dtype = parts_of(Path(path))
        for stage, floor in noise.items():
            about[tensors.FLOOR + stage] = repr(max(floor, float(about[tensors.FLOOR + stage])))
        write(Path(path), arrays, about | {MEASURED_ON: floors.machine()}, dtype)


# --- waveforms ------------------------------------------------------------------------------------


def make_signals() -> None:
    """Each waveform as a .wav of float32, and all of them in one safetensors file."""
    clips = {k: v for name in signals.SIGNALS for k, v in waveforms(name).items()}
    write(HERE / "signals" / "waveforms.safetensors", clips, {})
    for name, clip in clips.items():
        wavfile.write(HERE / "signals" / f"{name}.wav", melfront.SAMPLE_RATE, clip)


# --- front end ------------------------------------------------------------------------------------


def front_end(name: str, n_mels: int) -> tuple[dict[str, Any], dict[str, str]]:
    return golden(of_signal(name, n_mels), SAMPLED if n_mels == max(N_MELS) else SAMPLED_TWICE)


def golden(pipeline: Pipeline, sampled: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """Every front-end stage of a signal, whole or sampled, and what the file says of itself."""
    truth = {stage: as_real(values) for stage, values in pipeline.front_end_truth.items()}
    port = pipeline.right_port(truth, "float32")
    about = metadata(pipeline)
    for stage, values in truth.items():
        pair = [at_positions(stage, x, dump.N_FLOOR) for x in (values, as_real(port[stage]))]
        noise = dump.noise_of(stage, values.shape, *pair, stage in sampled)
        about[tensors.FLOOR + stage] = repr(noise)
    about |= {tensors.NORM + s: repr(float(np.linalg.norm(truth[s]))) for s in sampled}
    about |= {tensors.SAMPLED + s: dump.spaced(truth[s].shape) for s in sampled}
    kept = {s: at_positions(s, x) if s in sampled else x for s, x in truth.items()}
    return kept, about


def metadata(pipeline: Pipeline) -> dict[str, str]:
    """What a file says of itself: a dump's metadata, and the .wav files to read."""
    said = dump.describe(pipeline, "float64") | clips_of(pipeline.clip_name, pipeline.length)
    return {key: text for key, text in said.items() if key not in IN_MANIFEST}


def sample_features(n_mels: int) -> tuple[dict[str, Any], dict[str, str]]:
    """The features of the sample clip: the first frames of those padded to 30 s."""
    pipeline = replace(of_signal("sample", n_mels), pad_to=SAMPLE_SECONDS)
    truth = {"features": pipeline.front_end_truth["features"]}
    floor = pipeline.floors(truth, "float32")["features"]
    return truth, metadata(pipeline) | {tensors.FLOOR + "features": repr(floor)}


def make_frontend() -> None:
    for n_mels in N_MELS:
        for name in signals.SHORT:
            write(HERE / "frontend" / f"{name}.{n_mels}.safetensors", *front_end(name, n_mels))
        write(HERE / "frontend" / f"sample.{n_mels}.safetensors", *sample_features(n_mels))
    raise_floors(sorted((HERE / "frontend").glob("*.safetensors")))


# --- libraries ------------------------------------------------------------------------------------


def key(library: str, n_mels: int) -> str:
    """`transformers-torch-path.80`: a tensor's name for "transformers, torch path"."""
    return f"{library.replace(', ', '-').replace(' ', '-').lower()}.{n_mels}"


def library_features(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    kept, versions = {}, {}
    for title in LIBRARIES:
        library = libraries.find(title)
        versions[f"version.{library.package}"] = str(libraries.version(library.package))
        for n_mels in N_MELS:
            kept[key(title, n_mels)] = features_of(library, of_signal(name, n_mels))
    pipeline = of_signal(name, N_MELS[0])
    about = {"clip": pipeline.clip_name, **clips_of(pipeline.clip_name, pipeline.length)}
    return kept, about | versions


def make_libraries() -> None:
    missing = {package for package in PACKAGES if not libraries.version(package)}
    if missing:
        print(f"libraries: no {', '.join(sorted(missing))} here; what is committed stays")
        return
    for name in signals.SHORT:
        write(HERE / "libraries" / f"{name}.safetensors", *library_features(name))


# --- encoders -------------------------------------------------------------------------------------


def toy_stages(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Every stage of a toy encoder, whole, and of the front end that feeds it."""
    pipeline = of_signal("toy", TOY.n_mels, load_model(f"formula:{name}"), f"formula:{name}")
    kept, about = golden(pipeline, SAMPLED)
    names = stages.of_encoder(TOY.n_audio_layer)
    truth = pipeline.encoder_truth(names)
    noise = pipeline.floors(truth, "float32")
    about |= {tensors.FLOOR + stage: repr(noise[stage]) for stage in names}
    return kept | {stage: truth[stage] for stage in names}, about


def make_toy() -> None:
    for name in TOYS:
        path = HERE / "encoder" / f"{name}.safetensors"
        write(path, *toy_stages(name), dtype="float64")
    raise_floors(HERE / "encoder" / f"{name}.safetensors" for name in TOYS)


def make_size(file: str, model: str, public: str) -> None:
    """256 positions of each stage of a whole model on the sample clip, under a public name."""
    target = HERE / "encoder" / f"{file}.safetensors"
    with scratch_folder() as folder:
        path = folder / "dump.safetensors"
        dump.dump(path, model=model, sample=True)
        arrays, about, _ = parts_of(path)
    about |= {"model": public}
    about |= clips_of(about["clip"], round(float(about["pad_to"]) * melfront.SAMPLE_RATE))
    write(target, arrays, {key: text for key, text in about.items() if key not in IN_MANIFEST})
    raise_floors([target])


def make(part: str) -> None:
    if part in MAKERS:
        MAKERS[part]()
    elif part in SIZES:
        make_size(part, f"formula:{part}", f"formula:{part}")
    elif folder := trained():
        make_size(part, str(folder), "openai/whisper-tiny.en")
    else:
        print("tiny.en: no trained weights here; what is committed stays")


MAKERS = {
    "signals": make_signals,
    "frontend": make_frontend,
    "libraries": make_libraries,
    "toy": make_toy,
}
PARTS = (*MAKERS, *SIZES, "tiny.en")


def run(arguments: list[str] | None) -> None:
    parser = Parser(
        prog=COMMAND,
        description="Make the golden tensors of reference_data, and MANIFEST.json.",
        epilog=f"example:\n  {COMMAND} frontend toy tiny",
    )
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"what to make anew, of {', '.join(PARTS)} (default: all, in an hour and 9 GB)",
    )
    parts = parser.parse_args(arguments).parts
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; expected some of {', '.join(PARTS)}")
    if not floors.can_be_measured():
        parser.error("the floors are measured on Linux, x86-64, with the C compiler `cc`; use one")
    for part in parts or PARTS:
        print(part, flush=True)
        make(part)
    text = text_of(manifest()) + "\n"
    with replacing(HERE / "MANIFEST.json") as temporary:
        temporary.write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    return exit_status(COMMAND, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
