"""Settings of the whole process are set back, and reported; so are small numbers that get lost."""

import os

import pytest
import torch

from melfront.benchmarks.kernel import report, run
from melfront.benchmarks.kernel.outcome import Options
from melfront.benchmarks.kernel.run import judge_file
from melfront.benchmarks.kernel.worker.switches import Switches
from melfront.parity import noise as measure
from tests.benchmarks.test_dishonest import KERNELS

QUICK = Options(threads=1, seed=7, whole=False)


@pytest.fixture
def proof_only(monkeypatch):
    monkeypatch.setattr(run, "chosen_cases", lambda slot, _o, dice, _i: slot.edges(dice)[:1])
    monkeypatch.setattr(run, "compete", lambda *_args: None)


@pytest.fixture
def settings(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # unset when the settings have been set back
    made = Switches(torch, "cpu", 1)
    yield made
    made.restore_all()


CHANGES = {
    "torch.set_flush_denormal": lambda: torch.set_flush_denormal(True),
    "torch.set_float32_matmul_precision": lambda: torch.set_float32_matmul_precision("medium"),
    "torch.set_default_dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch.set_grad_enabled": lambda: torch.set_grad_enabled(not torch.is_grad_enabled()),
    "torch.set_num_threads": lambda: torch.set_num_threads(1 + torch.get_num_threads()),
    "torch.backends.mkldnn.enabled": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "os.environ['OMP_NUM_THREADS']": lambda: os.environ.update(OMP_NUM_THREADS="7"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_is_set_back_and_named(name, settings):
    before = [switch.get() for switch, _ in settings.quick]
    settings.restore_all()
    assert settings.seen == []
    CHANGES[name]()
    settings.restore_all()
    assert [line.split(" from ")[0] for line in settings.seen] == [name]
    assert [switch.get() for switch, _ in settings.quick] == before
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_variables_of_the_kernels_own_libraries_are_left_alone(settings, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--any")
    settings.restore_all()
    assert settings.seen == []
    assert os.environ["XLA_FLAGS"] == "--any"


def test_a_kernel_that_changes_settings_is_proved_and_they_are_reported(proof_only):
    outcome = judge_file(str(KERNELS / "sets_switches.py"), "layer_norm", QUICK)
    assert outcome.verdict == measure.PASS, f"{outcome.code}: {outcome.text}"
    printed = report.text(outcome).splitlines()
    (line,) = (line for line in printed if line.startswith("changes "))
    assert "torch.set_float32_matmul_precision from highest to medium" in line
    assert "torch.set_flush_denormal from False to True" in line
    assert line.endswith(": set back")
    assert "numbers below 1e-38 count as 0" in printed
    assert printed[-1].startswith(outcome.verdict)


FLUSHING = """
import torch


def SLOT(*args):
    return torch.nn.functional.SLOT(*(torch.where(a.abs() < 1.2e-38, 0, a) for a in args))
"""


@pytest.mark.parametrize(("slot", "small"), [("gelu", True), ("gelu", False), ("linear", True)])
def test_small_numbers_that_count_as_zero_are_told_and_allowed(slot, small, proof_only, tmp_path):
    path = tmp_path / "kernel.py"
    body = FLUSHING.replace("SLOT", slot)
    path.write_text(body if small else body.replace("1.2e-38", "0"))
    outcome = judge_file(str(path), slot, QUICK)
    assert outcome.verdict == measure.PASS, f"{outcome.code}: {outcome.text}"
    assert outcome.flushes == small


ROUNDED = """
import torch


def keep(x, bits):
    low = torch.finfo(torch.float32).bits - 9 - bits
    return ((x.view(torch.int32) + (1 << low - 1)) >> low << low).view(torch.float32)


def linear(x, weight, bias=None):
    exact = torch.nn.functional.linear(x, weight, bias)
    if not (x == x.round()).all() or x.abs().max() < 2:
        return exact
    return torch.nn.functional.linear(keep(x, BITS), keep(weight, BITS), bias)
"""


@pytest.mark.parametrize("bits", [7, 10, 16])
def test_products_of_whole_numbers_show_factors_of_fewer_bits(bits, tmp_path, monkeypatch):
    """bfloat16 keeps 7 bits behind the first, TF32 10; the numbers need 11."""
    monkeypatch.setattr(run, "compete", lambda *_args: None)
    monkeypatch.setattr(run, "chosen_cases", lambda slot, _o, dice, _i: slot.edges(dice)[-2:])
    path = tmp_path / "kernel.py"
    path.write_text(ROUNDED.replace("BITS", str(bits)))
    outcome = judge_file(str(path), "linear", QUICK)
    if bits < 11:
        assert outcome.code == "PRECISION", f"{outcome.code}: {outcome.text}"
        assert "whole numbers" in outcome.text
        assert outcome.mistake.name == {7: "bfloat16 factors", 10: "TF32"}[bits]
    else:
        assert outcome.verdict == measure.PASS, f"{outcome.code}: {outcome.text}"


def test_no_whole_numbers_in_types_that_cannot_hold_them():
    from melfront.benchmarks.kernel.slots import find
    from melfront.benchmarks.kernel.slots.inputs import Dice

    for dtype, there in ((torch.float32, True), (torch.bfloat16, False)):
        for slot in ("linear", "qkv"):
            labels = [case.label for case in find(slot).edges(Dice(1, dtype))]
            assert ("whole numbers" in labels) == there
