"""The README's steps, implemented in C and run on every file: they do not need Python."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.io import wavfile

import melfront
from melfront.audio import as_clips
from melfront.encoder.built_in import TOY, TOYS
from melfront.parity import signals, stages
from melfront.parity.files import tensors
from melfront.parity.pipeline import load_model
from melfront.parity.resolve import of_signal
from melfront.reference_data import make

README = (make.HERE / "README.md").read_text("utf-8")
FILES = [
    f"{path.parent.name}/{path.name}"
    for folder in ("frontend", "encoder")
    for path in sorted((make.HERE / folder).glob("*.safetensors"))
]


def build(folder: Path, *options: str) -> Path:
    """Compile follow.c with the README's own lines for the sampled positions."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: there is no `cc` on the PATH")
    (lines,) = re.findall(r"```c\n(.*?)```", README, flags=re.DOTALL)
    (folder / "positions.h").write_text(lines)
    source = Path(__file__).with_name("follow.c")
    strict = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-I", folder]
    command = [compiler, *strict, *options, "-o", folder / "follow", source, "-lm"]
    subprocess.run(command, check=True)
    return folder / "follow"


@pytest.fixture(scope="module")
def follow(tmp_path_factory):
    return build(tmp_path_factory.mktemp("follow"))


def noises(program: Path, file: str, *port: Path) -> tuple[int, dict[str, float]]:
    """Exit status, and the noise of each stage that the program compared."""
    done = subprocess.run(
        [program, make.HERE, file, *port], check=False, capture_output=True, text=True
    )
    assert done.stderr == ""
    lines = (line.split() for line in done.stdout.splitlines())
    return done.returncode, {stage: float(noise) for stage, noise in lines}


def front_end_of(file: str) -> set[str]:
    return set(stages.FRONT_END) & tensors.read(make.HERE / file).tensors.keys()


@pytest.mark.parametrize("file", FILES)
def test_every_file(follow, file):
    """Our front end in C passes."""
    status, found = noises(follow, file)
    assert found.keys() == front_end_of(file) >= {"features"}
    assert status == 0, found


def written(folder: Path, port: dict[str, np.ndarray]) -> Path:
    for stage, values in port.items():
        values.astype("<f4").tofile(folder / f"{stage}.f32")
    return folder


@pytest.mark.parametrize("name", TOYS)
def test_every_stage_of_a_toy_encoder(follow, tmp_path, name):
    pipeline = of_signal("toy", TOY.n_mels, load_model(f"formula:{name}"))
    port = pipeline.right_port(stages.of_encoder(TOY.n_audio_layer), "float32")
    file = f"encoder/{name}.safetensors"
    status, found = noises(follow, file, written(tmp_path, port))
    assert found.keys() == port.keys() | front_end_of(file)
    assert status == 0, found
    written(tmp_path, {"ln_post": port["ln_post"] * 1.0001})
    status, found = noises(follow, file, tmp_path)
    assert status == 1
    assert [stage for stage, noise in found.items() if noise > 2] == ["ln_post"]


def test_sampled_stages_of_an_encoder(follow, tmp_path):
    model = load_model("formula:tiny")
    wanted = {"positions", "block.0.attn.weights", "block.3.mlp.gelu", "ln_post"}
    port = of_signal("sample", 80, model).right_port(wanted, "float32")
    status, found = noises(follow, "encoder/tiny.safetensors", written(tmp_path, port))
    assert found.keys() >= wanted
    assert status == 0, found


@pytest.mark.parametrize("file", ["frontend/speech.80", "frontend/sample.128", "encoder/base"])
def test_wrong_front_end_is_detected(tmp_path, file):
    """A symmetric window is wrong from the stage `windowed` on."""
    status, found = noises(build(tmp_path, "-DWINDOW=399"), f"{file}.safetensors")
    assert status == 1
    wrong = {stage for stage, noise in found.items() if noise > 2}
    assert wrong >= found.keys() & {"windowed", "spectrum", "mel", "log", "features"}


# Assumptions of the steps


@pytest.mark.parametrize("name", signals.SIGNALS)
def test_waveforms(name):
    """Complete, with the same bits in both kinds of file and from every .wav reader."""
    held = load_file(make.HERE / "signals" / "waveforms.safetensors")
    clips = as_clips(signals.load(name)).arrays
    names = [name] if len(clips) == 1 else [f"{name}.{i}" for i in range(len(clips))]
    for clip, key in zip(clips, names, strict=True):
        path = make.HERE / "signals" / f"{key}.wav"
        rate, wav = wavfile.read(path)
        assert rate == 16_000
        for samples in (wav, held[key], melfront.load_audio(path)):
            assert samples.dtype == np.float32
            assert np.array_equal(samples, clip)
        assert path.read_bytes()[58:] == clip.astype("<f4").tobytes()


def test_waveforms_match_the_list_of_signals():
    names = {path.stem for path in (make.HERE / "signals").glob("*.wav")}
    assert names == load_file(make.HERE / "signals" / "waveforms.safetensors").keys()
    assert {name.removesuffix(".0").removesuffix(".1") for name in names} == set(signals.SIGNALS)


def test_metadata_is_flat():
    """No value is nested JSON."""
    for path in make.HERE.glob("*/*.safetensors"):
        for key, text in tensors.read(path).metadata.items():
            assert not text.startswith(("{", "[")), (path.name, key)


def test_readme_names_the_sampled_stages():
    always, extra = re.search(
        r"Sampled stages\.\*\* (.*?) are large, so .*?\. (.*?) are sampled in the files with 80",
        README,
        flags=re.DOTALL,
    ).groups()
    always, extra = (set(re.findall(r"`(\w+)`", text)) for text in (always, extra))
    for path in (make.HERE / "frontend").glob("*.safetensors"):
        held = tensors.read(path)
        expected = always | extra if path.stem.endswith(".80") else always
        assert held.sampled.keys() == expected & held.tensors.keys(), path.name
        for stage, shape in held.sampled.items():
            assert np.prod(shape) > held.tensors[stage].values.size == 256
