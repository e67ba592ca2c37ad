"""Formula weights: the same bits from Python integers and from C, and their statistics."""

import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction
from math import floor, isqrt
from pathlib import Path

import numpy as np
import pytest
import torch

from melfront.encoder import SIZES, EncoderConfig, WhisperEncoder, formula
from melfront.encoder.checkpoint import hf_name, shapes
from tests.encoder.peers import TOY

ODD = EncoderConfig(
    n_mels=5, n_audio_ctx=31, n_audio_state=58, n_audio_head=2, n_audio_layer=2, n_audio_mlp=101
)


def hf_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    return {hf_name(name): shape for name, shape in shapes(config).items()}


# The formula of the docstring in Python integers


def element(name: str, shape: tuple[int, ...], i: int, mean: int, std: int) -> float:
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) % 2**64
    z = (h + (i + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    z = z ^ (z >> 31)
    a, b, c, d = (z >> shift & 0xFFFF for shift in (0, 16, 32, 48))
    s = 2 * (a + b + c) - 196_605
    if d < 1024:
        s = 8 * s
    if len(shape) == 1:
        scale = std << 12
    else:
        fan_in = int(np.prod(shape[1:]))
        scale = isqrt(floor(Fraction(std * std * 2**24, fan_in)))
    total = (mean << 28) + s * scale
    return to_float32(total) / 2**32


def to_float32(n: int) -> float:
    """Round an integer to float32, ties to even, without going through float64."""
    sign, n = (-1 if n < 0 else 1), abs(n)
    spare = max(0, n.bit_length() - 24)
    kept, rest = n >> spare, n & ((1 << spare) - 1)
    half = 1 << spare >> 1
    if spare and (rest > half or (rest == half and kept & 1)):
        kept += 1
    return float(sign * kept << spare)


def test_every_weight_against_python_integers():
    for name, shape in hf_shapes(TOY).items():
        if name == "embed_positions.weight":
            continue
        mean, std = next(
            formula.STATISTICS[ending]
            for ending in sorted(formula.STATISTICS, key=len, reverse=True)
            if name.endswith(ending)
        )
        ours = formula.hf_weight(name, shape)
        assert ours.dtype == np.float32
        assert ours.shape == shape
        for i, value in enumerate(ours.flat):
            if i % 7 == 0 or i < 13:
                assert value == element(name, shape, i, mean, std), (name, i)


def test_known_values():
    """Fixed bits, with which a port in any language can be checked without Python."""
    last_four = {
        ("conv1.weight", (384, 128, 3)): "3cfb18f8 bc807470 bd17d5b7 3bf014b2",
        ("layers.3.fc1.bias", (1536,)): "bfc108b0 bfa4e6d0 c02d1138 bff0a7f0",
        ("layer_norm.weight", (384,)): "3f859e60 3f8acb60 3f8bd5a0 3fc93da0",
        ("embed_positions.weight", (1500, 384)): "3f7c3000 3f7c8000 3f7cd000 3f7d2000",
    }
    for (name, shape), expected in last_four.items():
        bits = formula.hf_weight(name, shape).ravel()[-4:].view(np.uint32)
        assert " ".join(f"{x:08x}" for x in bits) == expected, name


# The formula of the docstring in C


@pytest.fixture(scope="session")
def program(tmp_path_factory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: there is no `cc` on the PATH")
    binary = tmp_path_factory.mktemp("formula") / "formula"
    source = Path(__file__).with_name("formula.c")
    # -ffp-contract=off: the formula rounds twice, a fused multiply-add only once.
    options = ["-std=c99", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *options, "-o", binary, source, "-lm"], check=True)
    return binary


@pytest.mark.parametrize("config", [TOY, ODD], ids=["toy", "odd"])
def test_c_gives_the_same_bits(program, config):
    for name, shape in hf_shapes(config).items():
        assert_same_bits(program, name, shape)


def test_c_gives_the_same_bits_at_full_size(program):
    assert_same_bits(program, "embed_positions.weight", (1500, 1280))  # angles up to 1500
    assert_same_bits(program, "layers.31.fc2.weight", (1280, 5120 // 16))
    assert_same_bits(program, "conv1.weight", (1280, 128, 3))


def assert_same_bits(program, name, shape):
    command = [program, name, *map(str, shape)]
    out = subprocess.run(command, check=True, capture_output=True).stdout
    theirs = np.frombuffer(out, dtype=np.float32).reshape(shape)
    ours = formula.hf_weight(name, shape)
    assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32)), name


# Statistics of the weights


def test_model_has_these_weights(device):
    model = WhisperEncoder.from_formula(TOY, device=device)
    for name, weight in model.state_dict().items():
        expected = formula.hf_weight(hf_name(name), tuple(weight.shape))
        assert np.array_equal(formula.weight(name, tuple(weight.shape)), expected), name
        assert np.array_equal(weight.cpu().numpy(), expected), name
        assert weight.dtype == torch.float32
    half = WhisperEncoder.from_formula(TOY, dtype=torch.bfloat16, device=device)
    assert half.conv1.weight.equal(model.conv1.weight.bfloat16())


def test_statistics():
    config = replace(SIZES["tiny"], n_audio_layer=1, n_mels=128)
    for name, shape in hf_shapes(config).items():
        if name == "embed_positions.weight":
            continue
        x = formula.hf_weight(name, shape).astype(np.float64)
        ending = max((e for e in formula.STATISTICS if name.endswith(e)), key=len)
        mean, std = (value / 16 for value in formula.STATISTICS[ending])
        if len(shape) > 1:
            std /= np.sqrt(np.prod(shape[1:]))
        # One value in 64 is 8 times as large, so the variance is 63/64 + 64/64 of the plain one.
        total = std * np.sqrt(127 / 64)
        few = 1 / np.sqrt(x.size)
        assert abs(x.mean() - mean) <= 4 * total * few, name
        # The fourth moment of this distribution is about 20 times the square of the second.
        assert abs(x.std() / total - 1) <= 4 * np.sqrt(20) / 2 * few + 0.002, name
        # A sum of three uniform numbers ends at 3 standard deviations. Only outliers are beyond:
        # the 72 % of them that were more than 3/8 of a standard deviation from 0.
        beyond = (np.abs(x - mean) > 3.01 * std).mean()
        assert abs(beyond - 0.722 / 64) <= 4 * np.sqrt(0.722 / 64) * few, name
        assert np.abs(x - mean).max() <= 24.1 * std, name


def test_positions():
    ours = formula.hf_weight("embed_positions.weight", (1500, 384))
    assert np.abs(ours - formula.sinusoids(1500, 384)).max() <= 2.0**-13
    assert np.array_equal(ours * 4096, np.round(ours * 4096)), "multiples of 2^-12"
    assert len(np.unique(ours, axis=0)) == 1500, "two positions are equal"
    # OpenAI computes its table in float32: the largest angle is 1499, whose ulp is 1.2e-4.
    whisper = pytest.importorskip("whisper.model")
    theirs = whisper.sinusoids(1500, 384).numpy()
    assert np.abs(formula.sinusoids(1500, 384) - theirs).max() <= 2.4e-4


def test_weights_depend_on_the_name():
    a, b = (formula.hf_weight(f"layers.{i}.fc1.weight", (17, 26)) for i in (0, 1))
    assert not np.any(a == b)
    # A tensor that is computed in several blocks has no seam.
    long = formula.hf_weight("layers.0.fc1.bias", (formula.BLOCK + 3,))
    assert np.array_equal(long[:5], formula.hf_weight("layers.0.fc1.bias", (5,)))
    for i in (formula.BLOCK - 1, formula.BLOCK, formula.BLOCK + 2):
        assert long[i] == element("layers.0.fc1.bias", (9,), i, -24, 10)
