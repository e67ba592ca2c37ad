"""The examples in JAX, in C by cffi and from a library built beforehand pass their proof."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from melfront.benchmarks.kernel import run
from melfront.benchmarks.kernel.outcome import Options
from melfront.benchmarks.kernel.reasons import Refused
from melfront.benchmarks.kernel.run import judge_file
from melfront.benchmarks.kernel.timing import whole
from melfront.encoder import ops
from melfront.encoder.built_in import TOY
from melfront.parity import noise as measure

EXAMPLES = Path(run.__file__).parents[1] / "examples"
QUICK = Options(threads=1, seed=11, seconds=0.2, whole=False)


@pytest.fixture
def compiler():
    if not shutil.which(command := os.environ.get("CC", "cc")):
        pytest.skip(f"no C compiler: {command}")
    return command


def assert_passes(path):
    outcome = judge_file(str(path), "layer_norm", QUICK)
    assert outcome.verdict == measure.PASS, f"{outcome.code}: {outcome.text}"
    return outcome


def test_jax_is_proved_and_timed(monkeypatch):
    """It computes in threads of its own, none of which works on afterwards."""
    pytest.importorskip("jax")

    def few(slot, options, dice, interpreted):
        return [next(iter(chosen(slot, options, dice, interpreted))), *slot.edges(dice)[2:4]]

    chosen = run.chosen_cases
    monkeypatch.setattr(run, "chosen_cases", few)
    (race,) = assert_passes(EXAMPLES / "layer_norm_jax.py").races.values()
    assert race.checked >= 1


COUNTED = """

import os
computed = layer_norm


def layer_norm(*args):
    out = computed(*args)
    names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    assert sum("XLA" in name for name in names) == 1, names
    return out
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads cannot be seen here")
def test_xla_has_as_many_threads_as_were_asked_for(edges_only, tmp_path):
    pytest.importorskip("jax")
    kernel = tmp_path / "kernel.py"
    kernel.write_text((EXAMPLES / "layer_norm_jax.py").read_text() + COUNTED)
    assert_passes(kernel)


def test_weights_require_no_gradient_in_the_encoder_either():
    """torch hands no tensor that does to DLPack."""

    def layer_norm(x, weight, bias):
        return torch.from_dlpack(ops.layer_norm(*map(torch.from_dlpack, (x, weight, bias))))

    toy = ("tiny", "formula:toy", 1, "float32", "cpu")
    served = whole.functions((layer_norm, "torch", False), "layer_norm", *toy)
    served[""][0](torch.zeros(1, TOY.n_mels, TOY.n_frames))


def test_cffi(compiler, edges_only):
    pytest.importorskip("cffi")
    assert_passes(EXAMPLES / "layer_norm_cffi.py")


def test_library_is_built_by_the_command_that_its_absence_names(compiler, edges_only, tmp_path):
    kernel = tmp_path / "layer_norm_library.py"
    for file in (kernel.name, "layer_norm.c"):
        shutil.copy(EXAMPLES / file, tmp_path)
    with pytest.raises(Refused) as refused:
        judge_file(str(kernel), "layer_norm", QUICK)
    assert refused.value.code == "IMPORT"
    said, command, _ = refused.value.text.split("`")
    assert "no layer_norm.so next to this file" in said
    assert command in kernel.read_text().split('"""')[1], "the docstring has another command"
    subprocess.run(command.replace("cc ", f"{compiler} ", 1).split(), cwd=tmp_path, check=True)
    assert_passes(kernel)
