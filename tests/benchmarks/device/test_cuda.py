"""The harness on a GPU. Slow, and to be run alone: other work on the GPU would disturb it."""

from dataclasses import replace

import pytest
import torch

from melfront.benchmarks.kernel.outcome import Options
from melfront.benchmarks.kernel.run import judge_file
from melfront.benchmarks.kernel.sandbox import parent
from melfront.benchmarks.kernel.timing.times import REFERENCE
from melfront.parity import noise as measure
from tests.benchmarks.test_dishonest import KERNELS

OPTIONS = Options(size="base", seed=7, seconds=0.5, limit=10, whole=False, device="cuda")

REFUSED = {
    "changes_input": ("layer_norm", "MUTATED", "changes what it is given"),
    "caches_a_few_values": ("mlp", "CACHE", "keeps"),
    "caches_by_pointer": ("layer_norm", "STALE", "same addresses"),
    "returns_one_buffer": ("layer_norm", "ALIAS", "an earlier result"),
    "skips_last_row": ("layer_norm", "UNWRITTEN", "never written"),
    "patches_the_wait": ("layer_norm", "TAMPERED", "Event.record"),
    "sets_a_method": ("layer_norm", "TYPE", "data_ptr"),
    "answers_when_copied": ("layer_norm", "TAMPERED", "by a function mode"),
    "spins_in_the_rivals_turn": ("layer_norm", "THREAD", "processor time"),
    "skips_some_copies": ("layer_norm", "TIMED", "right in the proof"),
    "polls_for_its_arguments": ("layer_norm", "HANG", "not done after"),
    "works_in_the_rivals_turn": ("layer_norm", "THREAD", "not its turn"),
}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("name", REFUSED)
def test_kernel_is_refused_on_a_gpu(name, monkeypatch):
    slot, code, words = REFUSED[name]
    monkeypatch.setattr(parent, "COMPILE_LIMIT", 40.0)  # of the kernel that hangs, in Triton
    if name == "polls_for_its_arguments":
        pytest.importorskip("triton")
    outcome = judge_file(str(KERNELS / f"{name}.py"), slot, OPTIONS)
    assert outcome.code == code, f"{outcome.code}: {outcome.text}"
    assert words in outcome.text


LEVEL = """
import torch


def layer_norm(x, weight, bias, eps=1e-5):
    EXTRA
    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, eps)
"""


def test_a_second_launch_is_a_difference_and_the_reference_is_none(tmp_path):
    """One more pass over the values takes a microsecond or two."""
    ratios = {}
    for name, extra in (("level", ""), ("slower", "x = x + 0")):
        path = tmp_path / f"{name}.py"
        path.write_text(LEVEL.replace("EXTRA", extra))
        outcome = judge_file(str(path), "layer_norm", replace(OPTIONS, seconds=2))
        assert outcome.verdict == measure.PASS, f"{outcome.code}: {outcome.text}"
        ratios[name] = [race.ratio(REFERENCE) for race in outcome.races.values()]
        assert all(race.copies >= 2 for race in outcome.races.values())
    assert not any(counts for _, counts in ratios["level"])
    assert all(counts and ratio < 1 for ratio, counts in ratios["slower"])
