"""Every broken or cheating kernel in kernels/ is refused for its own reason."""

from dataclasses import replace
from pathlib import Path

import pytest

from melfront.benchmarks.kernel import report
from melfront.benchmarks.kernel.outcome import Options
from melfront.benchmarks.kernel.reasons import REASONS
from melfront.benchmarks.kernel.run import judge_file
from tests.benchmarks.declared import test_prepare, test_shapes

KERNELS = Path(__file__).parent / "kernels"
QUICK = Options(threads=1, seed=7, seconds=0.2, whole=False)
LIMITED = replace(QUICK, limit=5)  # for a kernel that hangs

# file -> slot, code, text in the reason
REFUSED = {
    "returns_input": ("layer_norm", "ALIAS", "memory of argument 1"),
    "returns_one_buffer": ("layer_norm", "ALIAS", "an earlier result"),
    "two_buffers": ("layer_norm", "ALIAS", "an earlier result"),
    "caches_by_pointer": ("layer_norm", "STALE", "same addresses"),
    "caches_by_value": ("layer_norm", "CACHE", "keeps"),
    "caches_a_few_values": ("mlp", "CACHE", "keeps"),
    "changes_input": ("layer_norm", "MUTATED", "changes what it is given"),
    "changes_numpy_input": ("layer_norm", "MUTATED", "read-only"),
    "skips_last_row": ("layer_norm", "UNWRITTEN", "never written"),
    "nan_in_corner": ("layer_norm", "NOT_FINITE", "NaN"),
    "one_wrong_value": ("layer_norm", "WRONG", "row (0, 1499)"),
    "float16_inside": ("layer_norm", "PRECISION", "noise"),
    "tf32_rounding": ("linear", "PRECISION", "noise"),
    "background_thread": ("layer_norm", "THREAD", "thread"),
    "spins_in_the_rivals_turn": ("layer_norm", "THREAD", "processor time"),
    "starts_before_go": ("layer_norm", "THREAD", "processor time"),
    "works_ahead_in_one_gap": ("layer_norm", "THREAD", "not its turn"),
    "thread_once_timed": ("layer_norm", "THREAD", "once it is timed"),
    "process_once_timed": ("layer_norm", "PROCESS", "once it is timed"),
    "answers_for_the_harness": ("layer_norm", "FORGED", "not what was asked"),
    "becomes_the_harness": ("layer_norm", "TAMPERED", "the harness's own object"),
    "helper_process": ("layer_norm", "PROCESS", "process"),
    "only_seen_shapes": ("layer_norm", "SHAPES", "right on the shapes that the encoder has"),
    "wrong_when_timed": ("layer_norm", "TIMED", "right in the proof"),
    "sleeps_unless_timed": ("layer_norm", "UNEVEN", "when it is not timed"),
    "skips_some_calls": ("layer_norm", "TIMED", "right in the proof"),
    "works_in_a_signal": ("layer_norm", "THREAD", "processor time"),
    "hides_a_check": ("layer_norm", "TAMPERED", "copy_out"),
    "patches_the_clock": ("layer_norm", "TAMPERED", "time.perf_counter"),
    "patches_the_checker": ("layer_norm", "TAMPERED", "torch."),
    "patches_the_wait": ("layer_norm", "TAMPERED", "torch._C._cuda_synchronize, Event.record"),
    "answers_when_copied": ("layer_norm", "TAMPERED", "by a function mode"),
    "sets_a_method": ("layer_norm", "TYPE", "on which it has set data_ptr"),
    "calls_the_reference": ("layer_norm", "REFERENCE", "imports melfront"),
    "removes_the_guard": ("layer_norm", "TAMPERED", "sys.meta_path"),
    "exits": ("layer_norm", "EXIT", "left the process"),
    "exits_politely": ("layer_norm", "EXIT", "SystemExit"),
    "hangs_on_one_case": ("layer_norm", "HANG", "not done after 5 s"),
    "crashes_on_one_case": ("layer_norm", "CRASH", "segmentation fault"),
    "lazy_tensor": ("layer_norm", "TYPE", "Later"),
    "raises_at_third_call": ("layer_norm", "RAISED", "no more workspace"),
    "returns_float64": ("layer_norm", "DTYPE", "float64"),
    "returns_meta": ("layer_norm", "DEVICE", "meta"),
    "drops_an_axis": ("layer_norm", "SHAPE", "expected (1, 1500, 384)"),
    "writes_to_the_pipe": ("layer_norm", "FORGED", "pipe"),
    "answers_early": ("layer_norm", "LATE", "after it has said"),
    "one_pass_variance": ("layer_norm", "WRONG", "large offset"),
    "tanh_gelu": ("gelu", "WRONG", "noise"),
    "softmax_overflows": ("softmax", "NOT_FINITE", "huge scores"),
    "second_core_for_a_while": ("layer_norm", "THREAD", "cores at work"),
    "works_ahead_a_little": ("layer_norm", "THREAD", "not its turn"),
    "swaps_storage": ("layer_norm", "ALIAS", "an earlier result"),
    "changes_its_result": ("layer_norm", "ALIAS", "changes a result"),
    "changes_its_timed_result": ("layer_norm", "ALIAS", "changes a result"),
    "returns_shared_memory": ("layer_norm", "ALIAS", "shares with other processes"),
    "negates_later": ("layer_norm", "TYPE", "negated later"),
    "replaces_code": ("layer_norm", "TAMPERED", "torch.nn.functional.layer_norm"),
    "replaces_an_operator": ("layer_norm", "TAMPERED", "torch.ops.aten::erfinv"),
}

# Those that cheat only in the encoder's place: code, text in the reason. `turns/` runs them.
IN_PLACE = {
    "patches_linear_in_the_whole": ("TAMPERED", "torch.nn.functional.linear"),
    "thread_in_the_whole": ("THREAD", "once it is in the encoder"),
    "changes_the_model": ("TAMPERED", "Conv1d.forward"),
}

# Those that cheat on a device alone: `device/` runs them, and some of the others there too.
ON_A_DEVICE = {"skips_some_copies", "polls_for_its_arguments", "works_in_the_rivals_turn"}

# Those that reach out of their process, which `isolation/` runs.
OUTWARD = {
    *("asks_a_server", "asks_through_a_file", "fakes_a_verdict", "reads_a_rival"),
    *("reads_the_parent", "slows_the_rivals", "stops_the_rivals"),
}

# The known mistake that the report names.
NAMED = {
    "one_pass_variance": "one-pass variance",
    "tanh_gelu": "tanh GELU",
    "softmax_overflows": "softmax without the maximum taken off",
    "float16_inside": "float16 inside",
    "tf32_rounding": "TF32",
}


SLOW = (
    "softmax_overflows",
    "caches_a_few_values",
    "second_core_for_a_while",
    "changes_its_timed_result",
    "works_ahead_in_one_gap",
)
# Where no core is free these can do nothing that shows; nor does the kernel get a ratio.
NEEDS_A_CORE = ("second_core_for_a_while",)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in REFUSED]
)
def test_kernel_is_refused_for_its_own_reason(name):
    slot, code, words = REFUSED[name]
    options = LIMITED if code == "HANG" else QUICK
    outcome = judge_file(str(KERNELS / f"{name}.py"), slot, options)
    if outcome.code == "LATE" != code and "the machine is busy" in outcome.text:
        # There, copying the result may take so long that it looks like work. Once more, then.
        outcome = judge_file(str(KERNELS / f"{name}.py"), slot, options)
    if name in NEEDS_A_CORE and outcome.good and outcome.warning:
        assert "too busy to say" in report.text(outcome)
        assert all(race.unclear() for race in outcome.races.values())
        return
    assert outcome.code == code, f"{outcome.code}: {outcome.text}"
    assert words in outcome.text
    assert not outcome.good
    assert not outcome.races, "a wrong kernel must not be timed"
    assert (outcome.mistake.name if outcome.mistake else None) == NAMED.get(name)


def test_every_kernel_file_is_covered():
    honest = {"reference", "two_pass_variance", "fills_out", "sets_switches"}
    unusable = {"no_function", "wrong_signature", "raises_when_loaded"}
    files = {path.stem for path in KERNELS.glob("*.py")}
    elsewhere = {*test_prepare.REFUSED, *test_prepare.OTHERS, *test_shapes.REFUSED, *IN_PLACE}
    elsewhere |= OUTWARD
    assert files == set(REFUSED) | ON_A_DEVICE | honest | unusable | elsewhere
    assert {code for _, code, _ in REFUSED.values()} <= set(REASONS)


@pytest.mark.slow
def test_other_cases_run_after_a_hang_or_crash():
    for name in ("hangs_on_one_case", "crashes_on_one_case"):
        outcome = judge_file(str(KERNELS / f"{name}.py"), "layer_norm", LIMITED)
        verdicts = {f.case.label: f.verdict for f in outcome.findings}
        assert verdicts.pop("one row") == "INVALID"
        assert len(verdicts) == 7
        assert set(verdicts.values()) == {"PASS"}
