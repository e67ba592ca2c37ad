"""Measure one unit of noise as other CPUs and another FFT would have it ("several CPUs").

A floor measured on one machine accuses right ports on the next, whose libraries choose other
kernels. So each committed floor is the largest that these settings give. Each setting runs in its
own process, because MKL, oneDNN and torch read these variables as they are loaded.

    python -m melfront.reference_data.floors "MKL AVX2" FILE ...   # one setting's floors, as JSON
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy
import torch

from melfront.command import scratch_folder
from melfront.parity.files.sampling import as_real, at_positions
from melfront.parity.files.tensors import read
from melfront.parity.noise import Array
from melfront.parity.pages.mistakes_page import trained
from melfront.parity.resolve import NO_DUMP, resolve

THREADS = (1, 2)  # with several, torch chooses other matrix products
SETTINGS = {
    "MKL AVX-512": {"MKL_ENABLE_INSTRUCTIONS": "AVX512"},
    "MKL AVX2": {
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
    },
    "MKL generic": {
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "ATEN_CPU_CAPABILITY": "default",
    },
    "pocketfft": {},  # the FFT of NumPy, SciPy and many ports
}
# MKL honours the first two on Intel CPUs only. These two functions of MKL, preloaded, tell it that
# this is one.
INTEL = "int mkl_serv_intel_cpu(void) { return 1; } int mkl_serv_intel_cpu_true(void) { return 1; }"


def can_be_measured() -> bool:
    machine = (platform.system(), platform.machine())
    return machine == ("Linux", "x86_64") and shutil.which("cc") is not None


def largest(paths: Iterable[Path]) -> dict[str, dict[str, float]]:
    """Each file's stages with the largest noise that any setting gives, one process for each."""
    found: dict[str, dict[str, float]] = {str(path): {} for path in paths}
    with scratch_folder() as folder:
        for setting in SETTINGS:
            said = run(
                setting, ["-m", "melfront.reference_data.floors", setting, *found], str(folder)
            )
            for path, floors in json.loads(said).items():
                raise_to(found[path], floors)
    return found


def raise_to(found: dict[str, float], floors: dict[str, float]) -> None:
    for stage, floor in floors.items():
        found[stage] = max(floor, found.get(stage, 0.0))


def run(setting: str, arguments: list[str], folder: str) -> str:
    """What Python prints under a setting. folder: holds the library that is preloaded."""
    library = Path(folder) / "intel.so"
    if not library.exists():
        compiler = ["cc", "-shared", "-fPIC", "-x", "c", "-o", str(library), "-"]
        subprocess.run(compiler, input=INTEL, text=True, check=True)
    variables = {**os.environ, **SETTINGS[setting], "LD_PRELOAD": str(library)}
    top = Path(__file__).resolve().parents[1]
    command = [sys.executable, *arguments]
    return subprocess.check_output(command, env=variables, cwd=top, text=True)


def measured(path: str) -> dict[str, float]:
    """rms noise of each stage in the file, of the values that the file holds, in this process."""
    weights = trained() if Path(path).stem == "tiny.en" else None
    pipeline, _, held = resolve(NO_DUMP, read(path), model=weights and str(weights))
    assert held is not None
    names = held.tensors.keys() & set(pipeline.stages)
    truth = {stage: held.tensors[stage].values.astype(np.float64) for stage in names}

    def as_held(stage: str, tensor: Array) -> Array:
        mine = as_real(tensor)
        return at_positions(stage, mine) if stage in held.sampled else mine

    found: dict[str, float] = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        # A copy, because a pipeline keeps its floors.
        raise_to(found, replace(pipeline).floors(truth, "float32", as_held))
    return found


def machine() -> str:
    """The machine that the floors were measured on: CPU, libraries, settings."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    widest = "AVX-512" if torch.cpu._is_avx512_supported() else "no AVX-512"
    mkl = torch.__config__.show().split("Math Kernel Library Version ")[1].split("-")[0]
    return (
        f"{cpu} ({widest}), torch {torch.__version__}, MKL {mkl}, scipy {scipy.__version__}; "
        f"the largest of {', '.join(SETTINGS)}, on 1 and 2 threads"
    )


def main(setting: str, *paths: str) -> None:
    if setting == "pocketfft":
        # In this process, which measures and ends.
        torch.fft.rfft = lambda x: torch.from_numpy(scipy.fft.rfft(x.numpy()))
    print(json.dumps({path: measured(path) for path in paths}))


if __name__ == "__main__":
    main(*sys.argv[1:])
