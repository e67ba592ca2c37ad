"""reference_data/c: a program for people without Python, compiled and run."""

import dataclasses
import os
import re
import shutil
import subprocess

import numpy as np
import pytest

import melfront
from melfront import variants
from melfront.conventions import get_convention
from melfront.encoder.built_in import TOY
from melfront.parity.files import dump
from melfront.parity.pipeline import load_model
from melfront.parity.resolve import of_signal
from melfront.reference_data import make

SOURCE = make.HERE / "c" / "check.c"
SPEECH = make.HERE / "frontend" / "speech.80.safetensors"
TOY_FILE = make.HERE / "encoder" / "toy.safetensors"
STRICT = ("-Wall", "-Wextra", "-Werror")


def compiled(folder, *options, compiler="cc"):
    if shutil.which(compiler) is None:
        pytest.skip(f"no C compiler: there is no `{compiler}` on the PATH")
    program = folder / "check"
    subprocess.run([compiler, *STRICT, *options, "-o", program, SOURCE, "-lm"], check=True)
    return program


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    """The program, with a check of every index and every pointer where the compiler has one."""
    folder = tmp_path_factory.mktemp("check")
    try:
        program = compiled(folder, "-std=c99", "-pedantic", "-g", "-fsanitize=address,undefined")
    except subprocess.CalledProcessError:  # no such libraries
        program = compiled(folder, "-std=c99", "-pedantic", "-O2")

    def run(*arguments):
        command = [program, *map(str, arguments)]
        # The search for leaks does not work under a debugger, nor in some containers.
        environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        said = done.stdout + done.stderr
        assert done.returncode in (0, 1, 2), said
        assert said.count("\n") == 1
        assert bool(done.stderr) == (done.returncode == 2)
        return done.returncode, said

    return run


@pytest.fixture(scope="module")
def port():
    stages = "features", "mel", "spectrum", "power"
    return of_signal("speech", 80).right_port(set(stages), "float32")


def raw(folder, values):
    path = folder / "mine.f32"
    np.asarray(values, "<f4").tofile(path)
    return path


def test_right_stages(check, port, tmp_path):
    for stage, kept in (("features", 2960), ("mel", 2960), ("power", 256), ("spectrum", 256)):
        values = port[stage]
        if np.iscomplexobj(values):
            values = np.stack([values.real, values.imag], -1)
        status, said = check(SPEECH, stage, raw(tmp_path, values))
        assert status == 0, said
        assert said.startswith(f"{stage}  PASS  ")
        assert said.endswith(f"   {kept} of {values.size} values compared\n")


def test_wrong_place_and_noise(check, port, tmp_path):
    values = port["features"].copy()
    values[13, 21] += 0.5
    status, said = check(SPEECH, "features", raw(tmp_path, values))
    assert status == 1
    assert said.startswith("features  WRONG  ")
    assert "max abs 0.5   worst at 13 21 of (80 37): " in said
    noise = float(re.search(r"WRONG  (\S+) x noise", said)[1])
    # One value of 2960 is off by 0.5, in units of the published floor; %.3g has three digits.
    assert noise == pytest.approx(0.5 / 2960**0.5 / 1.0286579e-06, rel=0.01)
    values[0, 0] = np.nan
    status, said = check(SPEECH, "features", raw(tmp_path, values))
    assert status == 1
    assert "max abs nan   worst at 0 0 of" in said.replace("-nan", "nan")


def test_what_the_readme_shows(check, tmp_path):
    """A symmetric window, and the README's own commands, but for the folder of the program."""
    readme = (make.HERE / "README.md").read_text("utf-8")
    build, use, shown = re.search(r"^\$ (cc .*)\n\$ ./check (.*)\n(.*)\n", readme, re.M).groups()
    assert build == "cc -std=c99 -O2 -o check c/check.c -lm"
    file, stage, _ = use.split()
    convention = dataclasses.replace(get_convention("transformers"), periodic=False)
    wrong = variants.log_mel(
        melfront.load_audio(make.HERE / "signals" / "speech.wav"),
        n_mels=80,
        pad_to=None,
        convention=convention,
    )
    status, said = check(make.HERE / file, stage, raw(tmp_path, wrong))
    assert (status, said) == (1, shown + "\n")


def test_order_matters(check, port, tmp_path):
    status, said = check(SPEECH, "features", raw(tmp_path, port["features"].T))
    assert status == 1, said


@pytest.mark.parametrize("stage", ["positions", "block.1.attn.weights", "ln_post", "gelu2"])
def test_encoder_in_float64(check, tmp_path, stage):
    pipeline = of_signal("toy", TOY.n_mels, load_model("formula:toy"))
    values = pipeline.right_port({stage}, "float32")[stage]
    assert check(TOY_FILE, stage, raw(tmp_path, values))[0] == 0
    status, said = check(TOY_FILE, stage, raw(tmp_path, values * 1.001))
    assert status == 1, said


def test_dumps_of_parity(check, port, tmp_path):
    for sample in (False, True):
        path = tmp_path / f"{sample}.safetensors"
        clip = make.HERE / "signals" / "speech.wav"
        dump.dump(path, clip, wanted=["features"], sample=sample, n_mels=80, pad_to=None)
        status, said = check(path, "features", raw(tmp_path, port["features"]))
        assert status == 0, said
        assert f"   {256 if sample else 2960} of 2960 values compared" in said


def test_bad_use(check, port, tmp_path):
    mine = raw(tmp_path, port["features"])
    for arguments, says in (
        ((), "usage: check REFERENCE.safetensors STAGE MINE.f32"),
        ((SPEECH, "features"), "usage: "),
        ((SPEECH, "feature", mine), "it has no stage 'feature' with a floor"),
        ((SPEECH, "__metadata__", mine), "it has no stage"),
        ((SPEECH, "x" * 5000, mine), "it has no stage"),
        ((SPEECH, "mel", tmp_path / "none"), "none: it cannot be opened"),
        ((tmp_path / "none", "mel", mine), "none: it cannot be opened"),
        ((SPEECH, "mel", tmp_path), "it cannot be"),
        ((SPEECH, "power", mine), "'power' has 7437 values (37 201), yours has 2960"),
    ):
        status, said = check(*arguments)
        assert status == 2, said
        assert says in said
    for size, says in ((11839, "not a multiple of 4 bytes"), (11836, "has 2960 values"), (0, "0")):
        (tmp_path / "short.f32").write_bytes(mine.read_bytes()[:size])
        status, said = check(SPEECH, "features", tmp_path / "short.f32")
        assert status == 2, said
        assert says in said


def test_damaged_reference(check, port, tmp_path):
    mine, path = raw(tmp_path, port["features"]), tmp_path / "a.safetensors"
    whole = SPEECH.read_bytes()
    for size in (0, 7, 8, 9, 500, 9000, len(whole) - 1):
        path.write_bytes(whole[:size])
        status, said = check(path, "features", mine)
        assert status == 2, (size, said)
        assert "cut short" in said
    for change in (
        (b'"data_offsets":[', b'"data_offsets":[9'),
        (b'"data_offsets":[', b'"data_offsets":[-'),
        (b'"data_offsets":[', b'"data_offsets":['.ljust(16 + 30, b"9")),
        (b'"shape":[80,37]', b'"shape":[80,37'),
        (b'"shape":[80,37]', b'"shape":[80,-37]'),
        (b'"shape":[80,37]', b'"shape":[296,10]'),
        (b'"shape":[80,37]', b'"shape":[9999999999,9999999999]'),
        (b'"dtype":"F32"', b'"dtype":"F64"'),
        (b'"dtype":"F32"', b'"dtype":"I32"'),
        (b"}", b""),
        (b'"floor.features"', b'"floor.feature"'),
    ):
        data = whole[8 : 8 + int.from_bytes(whole[:8], "little")].replace(*change)
        path.write_bytes(len(data).to_bytes(8, "little") + data + whole[-30_000:])
        check(path, "features", mine)  # which is one line, and ends in 0, 1 or 2


@pytest.mark.parametrize("compiler", ["c++", "cc"])
def test_header_in_another_program(tmp_path, compiler):
    """In C++ too, and in a file that only calls it."""
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no `{compiler}` on the PATH")
    suffix, standard = (".cpp", "c++11") if compiler == "c++" else (".c", "c99")
    source = (tmp_path / "a").with_suffix(suffix)
    source.write_text(
        '#include "melfront_check.h"\n'
        "int main(void) { float x[1] = {0}; melfront_result r;\n"
        'return melfront_check("none", "mel", x, 1, &r) != 2; }\n'
    )
    options = [*STRICT, f"-std={standard}", "-I", SOURCE.parent, "-o", tmp_path / "a", source]
    subprocess.run([compiler, *options, "-lm"], check=True)
    assert subprocess.run([tmp_path / "a"]).returncode == 0
