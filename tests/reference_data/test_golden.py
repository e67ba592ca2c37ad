"""The committed files match what the command makes and what MANIFEST.json lists."""

import hashlib
import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file

from melfront.audio import SAMPLE
from melfront.encoder import checkpoint
from melfront.encoder.built_in import TOY, TOYS
from melfront.parity import compare, signals, stages
from melfront.parity.files import tensors
from melfront.parity.files.dump import as_real, at_positions
from melfront.parity.noise import rms
from melfront.parity.pages import libraries
from melfront.parity.pages.libraries_page import features_of
from melfront.parity.pages.mistakes_page import trained
from melfront.parity.pipeline import load_model
from melfront.parity.resolve import of_signal
from melfront.reference_data import make, manifest

FILES = sorted(make.HERE.glob("*/*.safetensors"))
MANIFEST = json.loads((make.HERE / "MANIFEST.json").read_text(encoding="utf-8"))

# float64 differs between CPUs in the last bits, which a logarithm near its floor magnifies. Stored
# values are rounded to float32, half an ulp. The sum is far below a unit of noise.
RELATIVE, OF_LARGEST = 2.0**-22, 1e-8


def assert_same(mine, committed, name):
    assert mine.shape == committed.shape, name
    largest = np.abs(committed).max(initial=0.0)
    away = np.abs(mine - committed) - RELATIVE * np.abs(committed)
    assert away.max(initial=0.0) <= OF_LARGEST * largest, name


def assert_same_file(made, path):
    """`made`: tensors and metadata, as the functions of `make` return them."""
    arrays, about = made
    held = tensors.read(path)
    assert list(arrays) == sorted(held.tensors, key=list(arrays).index)
    for name, tensor in held.tensors.items():
        assert_same(arrays[name], tensor.values, f"{path.name}: {name}")
    assert about.keys() == held.metadata.keys() - {make.MEASURED_ON}
    for key in about:
        if not key.startswith((tensors.FLOOR, tensors.NORM)):
            assert about[key] == held.metadata[key], key
    for name, floor in held.floors.items():
        # The committed floor is the largest of several settings, up to six times the smallest.
        # The noise measured here is that of a correct port, which may be up to twice the floor.
        ours = float(about[tensors.FLOOR + name])
        assert floor / 16 <= ours <= floor * 2, f"{path.name}: floor of {name}"


# Manifest


def test_manifest_lists_every_file():
    names = {path.relative_to(make.HERE).as_posix() for path in FILES}
    assert set(MANIFEST["files"]) == names
    assert MANIFEST["format"] == manifest.FORMAT
    assert MANIFEST["command"] == "python -m melfront.reference_data.make"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_hashes(path):
    """Hashes of each file and of each tensor's bytes, read only with safetensors."""
    entry = MANIFEST["files"][path.relative_to(make.HERE).as_posix()]
    data = path.read_bytes()
    assert len(data) == entry["bytes"]
    assert hashlib.sha256(data).hexdigest() == entry["sha256"]
    held = load_file(path)
    assert set(held) == set(entry["tensors"])
    for name, values in held.items():
        assert hashlib.sha256(values.tobytes()).hexdigest() == entry["tensors"][name]["sha256"]
        assert values.size == entry["tensors"][name].get("sampled", values.size)
        assert np.isfinite(values).all()


def test_hashes_of_the_clips():
    data = SAMPLE.read_bytes()
    assert hashlib.sha256(data).hexdigest() == MANIFEST["sample.flac"]
    paths = (make.HERE / "signals").glob("*.wav")
    assert MANIFEST["wav"] == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def test_size():
    assert sum(path.stat().st_size for path in make.HERE.rglob("*") if path.is_file()) < 10e6


def test_manifest_describes_the_signals():
    assert set(MANIFEST["signals"]) == set(signals.SIGNALS)
    for name, signal in signals.SIGNALS.items():
        assert MANIFEST["signals"][name]["formula"] == signal.formula
        for wav in MANIFEST["signals"][name]["wav"].split():
            assert (make.HERE / wav).is_file()
    assert make.text_of(MANIFEST) + "\n" == (make.HERE / "MANIFEST.json").read_text("utf-8")


# Signals, from the manifest's formulas in integers only


def splitmix64(text: str, count: int) -> list[int]:
    seed, out = 0xCBF29CE484222325, []
    for byte in text.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    for i in range(count):
        z = (seed + (i + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        out.append(z ^ z >> 31)
    return out


def noise(text, count, exponent):
    return [((z >> 40) - 2**23) / 2.0**exponent for z in splitmix64(text, count)]


def tone(count, exponent=14):
    text = re.search(r"t = ([-\d, ]+)$", MANIFEST["signals"]["tone"]["formula"])[1]
    period = [int(word) for word in text.split(",")]
    assert period == [round(2**14 * np.sin(2 * np.pi * i / 16)) for i in range(16)]
    return [period[i % 16] / 2.0**exponent for i in range(count)]


def speech(count, exponent=15):
    pcm = np.round(signals.sample() * 2.0**15)
    assert np.array_equal(pcm / 2.0**15, signals.sample())
    return list(pcm[40001 : 40001 + count] / 2.0**exponent)


FORMULAS = {
    "speech": lambda: speech(6007),
    "padded": lambda: speech(6007) + [0.0] * 1993,
    "noise": lambda: noise("noise", 5003, 29),
    "tone": lambda: tone(4999),
    "dc": lambda: [0.5 + x for x in tone(4993, 16)],
    "impulse": lambda: [float(i == 2503) for i in range(5009)],
    "late": lambda: noise("late", 4721, 33) + tone(80),
    "quiet": lambda: speech(5441, 28),
    "faint": lambda: noise("faint", 4481, 43),
    "silence": lambda: [0.0] * 4001,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name):
    """The formula gives the clip inside the committed stage `padded`, bit for bit."""
    padded = load_file(make.HERE / "frontend" / f"{name}.128.safetensors")["padded"]
    assert np.array_equal(padded[200:-200].astype(np.float64), FORMULAS[name]())


def test_formulas_of_the_batch():
    padded = load_file(make.HERE / "frontend" / "batch.128.safetensors")["padded"]
    assert np.array_equal(padded[0, 200:-200], np.float32(speech(4001)))
    assert np.array_equal(padded[1, 200:-200], np.float32(noise("batch", 3203, 33) + [0.0] * 798))


# The front end


@pytest.mark.parametrize("n_mels", make.N_MELS)
@pytest.mark.parametrize("name", signals.SHORT)
def test_front_end(name, n_mels):
    path = make.HERE / "frontend" / f"{name}.{n_mels}.safetensors"
    assert_same_file(make.front_end(name, n_mels), path)


@pytest.mark.parametrize("n_mels", make.N_MELS)
def test_sample_features(n_mels):
    """The first frames of 30 s, bit for bit; all later frames equal the last of them."""
    made = make.sample_features(n_mels)
    assert_same_file(made, make.HERE / "frontend" / f"sample.{n_mels}.safetensors")
    kept, whole = made[0]["features"], of_signal("sample", n_mels).front_end_truth["features"]
    assert np.array_equal(kept, whole[:, : kept.shape[1]])
    assert (whole[:, kept.shape[1] :] == kept[:, -1:]).all()


@pytest.mark.parametrize("title", make.LIBRARIES)
def test_libraries(title):
    """float32 results differ between machines: equal up to the noise of both."""
    library = libraries.find(title)
    if libraries.version(library.package) != MANIFEST["versions"][library.package]:
        pytest.skip(f"{library.package} {MANIFEST['versions'][library.package]} is not installed")
    for name in signals.SHORT:
        held = load_file(make.HERE / "libraries" / f"{name}.safetensors")[make.key(title, 80)]
        floor = tensors.read(make.HERE / "frontend" / f"{name}.80.safetensors").floors["features"]
        mine = features_of(library, of_signal(name, 80))
        assert mine.shape == held.shape
        assert rms(mine - held) <= 4 * floor, name


# Encoders


@pytest.mark.parametrize("name", TOYS)
def test_toy(name):
    assert_same_file(make.toy_stages(name), make.HERE / "encoder" / f"{name}.safetensors")


def test_toy_sizes_differ():
    """So that no swapped axis can fit by chance."""
    c = TOY
    sizes = [c.n_mels, c.n_audio_ctx, c.head_dim, c.n_audio_mlp, c.n_audio_head, 2 * c.n_audio_ctx]
    assert len(set(sizes)) == len(sizes)
    assert all(any(n % p == 0 for p in (2, 7, 11, 13, 53)) for n in sizes)


def test_quiet_toy_is_the_toy_scaled_by_a_power_of_two():
    loud, quiet = (load_model(f"formula:{name}").state_dict() for name in ("toy", "toy-quiet"))
    for name in checkpoint.shapes(TOY):
        factor = 128 if name.startswith(("conv1.", "conv2.", "positions")) else 1
        assert (loud[name] == quiet[name] * factor).all(), name


def check_size(file, model):
    """Compare the float64 truth of every stage at the committed positions."""
    held = tensors.read(make.HERE / "encoder" / f"{file}.safetensors")
    encoder = load_model(model)
    pipeline = of_signal("sample", encoder.config.n_mels, encoder, model)
    seen = []

    def look(stage, values):
        seen.append(stage)
        real = as_real(values)
        assert held.sampled[stage] == real.shape
        norm = float(held.metadata[tensors.NORM + stage])
        assert abs(np.linalg.norm(real) - norm) <= 1e-6 * norm, stage
        assert_same(at_positions(stage, real, 256), held.tensors[stage].values, stage)
        return values

    pipeline.run(look, encoder=True)
    assert set(seen) == held.sampled.keys()
    assert seen == [*stages.FRONT_END, *stages.of_encoder(encoder.config.n_audio_layer)]


def test_tiny():
    check_size("tiny", "formula:tiny")


@pytest.mark.slow
def test_base():
    check_size("base", "formula:base")


@pytest.mark.slow
def test_tiny_en():
    folder = trained()
    if folder is None:
        pytest.skip("whisper-tiny.en is missing; MELFRONT_SHARED names the folder that contains it")
    check_size("tiny.en", str(folder))


@pytest.mark.parametrize("size", make.SIZES)
def test_sizes_are_complete(size):
    """Every size has all stages and floors. The large ones are not computed again."""
    from melfront.encoder import SIZES

    path = make.HERE / "encoder" / f"{size}.safetensors"
    held = tensors.read(path)
    config = SIZES[size]
    order = [*stages.FRONT_END, *stages.of_encoder(config.n_audio_layer)]
    assert list(make.parts_of(path)[0]) == order
    assert held.sampled.keys() == set(order)
    assert held.sampled["ln_post"] == (1500, config.n_audio_state)
    assert held.sampled["features"] == (config.n_mels, 3000)
    assert held.floors.keys() == set(order)
    for stage in order:
        assert held.tensors[stage].values.shape == (256,)
        assert 0 < held.floors[stage] < 1e-3 * max(1, np.abs(held.tensors[stage].values).max())


# As references


@pytest.mark.parametrize("n_mels", make.N_MELS)
@pytest.mark.parametrize("name", signals.SHORT)
def test_correct_port_passes_against_every_file(name, n_mels):
    pipeline = of_signal(name, n_mels)
    port = pipeline.right_port([*stages.FRONT_END], "float32")
    report = compare(port, make.HERE / "frontend" / f"{name}.{n_mels}.safetensors")
    assert report.ok, str(report)
    assert len(report.stages) == 9


@pytest.mark.parametrize("name", TOYS)
def test_correct_toy_passes(name):
    pipeline = of_signal("toy", TOY.n_mels, load_model(f"formula:{name}"))
    port = pipeline.right_port(stages.of_encoder(2), "float32")
    report = compare(port, make.HERE / "encoder" / f"{name}.safetensors")
    assert report.ok, str(report)


def test_readme_example(monkeypatch):
    """The README's example with our features in place of the dots."""
    text = (make.HERE / "README.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(make.HERE.parent)
    line = "mine = ...  # your log-mel features of that signal"
    assert line in code
    put = "import melfront\nfrom parity import signals\n" + code.replace(
        line, "mine = melfront.log_mel(signals.load('speech'), pad_to=None)"
    )
    exec(put, {})
