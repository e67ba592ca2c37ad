"""A correct port passes against the committed files on any CPU and with any FFT."""

import json
import platform
from functools import cache
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

from melfront.parity import compare, noise, signals
from melfront.parity.files import tensors
from melfront.parity.resolve import of_signal
from melfront.reference_data import floors, make
from tests.parity.ports import finish

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or not torch.backends.mkl.is_available(),
    reason="the settings need MKL and Linux",
)


# MKL as it runs on three kinds of CPU. The FFT of the fourth setting is that of `ours_numpy`.
CPUS = [setting for setting in floors.SETTINGS if setting.startswith("MKL")]


@cache
def noises(setting):
    """Noise by file and port, then by stage."""
    with TemporaryDirectory() as folder:
        return json.loads(floors.run(setting, ["-m", "tests.reference_data.right_ports"], folder))


@pytest.mark.parametrize(
    "setting", [CPUS[0], *(pytest.param(cpu, marks=pytest.mark.slow) for cpu in CPUS[1:])]
)
def test_correct_ports_pass(setting):
    """Features, all front-end stages, and the toy encoders."""
    for port, by_stage in noises(setting).items():
        for stage, error in by_stage.items():
            assert error <= noise.PASS_LIMIT["float32"], (port, stage)


@pytest.mark.slow
def test_settings_differ():
    """Settings with the same results would be one setting under several names."""
    found = [tuple(noises(setting)["dc.80.safetensors, all stages"].values()) for setting in CPUS]
    assert len(set(found)) == (3 if torch.cpu._is_avx512_supported() else 2)


def test_files_name_the_settings_of_their_floors():
    for path in make.HERE.glob("*/*.safetensors"):
        held = tensors.read(path)
        if held.floors:
            settings = held.metadata[make.MEASURED_ON]
            large = path.stem in ("medium", "large-v2", "large-v3")  # all four would take hours
            for word in ("torch", "MKL", "MKL generic" if large else ", ".join(floors.SETTINGS)):
                assert word in settings, path.name


def rough_fft(x):
    """Spectrum (F, 201) of frames (F, 400) by 20 x 20 transforms, every factor in float32."""
    w = np.exp(-2j * np.pi * np.arange(400) / 400).astype(np.complex64)
    i, j = np.ogrid[:20, :20]
    small = w[20 * (i * j) % 400]  # (20, 20)
    columns = small @ x.reshape(-1, 20, 20).astype(np.complex64)
    rows = (columns * w[i * j]) @ small  # element [k, l] is frequency k + 20 l
    return rows.swapaxes(1, 2).reshape(-1, 400)[:, :201]


@pytest.mark.parametrize("n_mels", make.N_MELS)
@pytest.mark.parametrize("name", [name for name in signals.SHORT if name != "batch"])
def test_fft_that_no_floor_was_measured_with(name, n_mels):
    path = make.HERE / "frontend" / f"{name}.{n_mels}.safetensors"
    truth = of_signal(name, n_mels).right_port(["windowed", "power"], "float32")
    spectrum = rough_fft(truth["windowed"])
    power = spectrum.real**2 + spectrum.imag**2
    scale = noise.rms(truth["power"])
    assert noise.rms(power - truth["power"]) <= 1e-5 * scale  # a valid Fourier transform
    from melfront import mel_filters

    features = finish(mel_filters(n_mels).astype(np.float32) @ power.T)
    report = compare({"features": features}, path)
    assert report.ok, report
