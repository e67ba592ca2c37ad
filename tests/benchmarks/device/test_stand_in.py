"""The harness on a GPU, run on a stand-in: ordinary memory in the place of the device's."""

import ctypes
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from melfront.benchmarks.kernel import cli, report, run
from melfront.benchmarks.kernel.outcome import Options
from melfront.benchmarks.kernel.reasons import Refused
from melfront.benchmarks.kernel.run import judge_file
from melfront.benchmarks.kernel.sandbox import caches, copies, guard, parent
from melfront.benchmarks.kernel.sandbox.parent import Call, Sandbox
from melfront.benchmarks.kernel.slots.inputs import Case, Dice
from melfront.benchmarks.kernel.timing import roof
from melfront.benchmarks.kernel.timing.times import REFERENCE, TWIN
from melfront.benchmarks.kernel.worker import device
from melfront.benchmarks.kernel.worker.device import STAND_IN
from melfront.parity import noise as measure
from tests.benchmarks.device.test_cuda import REFUSED
from tests.benchmarks.test_dishonest import KERNELS, ON_A_DEVICE
from tests.benchmarks.test_timing import made_up

QUICK = Options(threads=1, seed=7, seconds=0.1, whole=False, device=STAND_IN)


@pytest.fixture
def few_cases(monkeypatch):
    """Only the first captured case and one other, to keep a run short."""

    def few(slot, options, dice, interpreted):
        return [next(iter(chosen(slot, options, dice, interpreted))), slot.edges(dice)[0]]

    chosen = run.chosen_cases
    monkeypatch.setattr(run, "chosen_cases", few)


def test_reference_is_timed_in_copies(few_cases, monkeypatch):
    monkeypatch.setattr("melfront.benchmarks.kernel.timing.times.Race.unclear", lambda _: "")
    outcome = judge_file(str(KERNELS / "reference.py"), "layer_norm", QUICK)
    assert outcome.verdict == measure.PASS, f"{outcome.code}: {outcome.text}"
    (race,) = outcome.races.values()
    assert race.copies >= 4  # of 4.6 MB each, where the cache is 4 MiB
    rounds = len(race.times[""])
    assert race.checked >= rounds * race.copies / 3
    assert len(race.events) == rounds
    assert race.roof.bandwidth > 0
    printed = report.text(outcome)
    assert f"its share of {race.copies} copies, waited for once" in printed
    assert "SM clocks unknown" in printed
    assert "%" in printed.partition("\ntime ")[2].splitlines()[1]


@pytest.mark.parametrize(
    ("name", "slot", "code", "words"),
    [
        ("changes_input", "layer_norm", "MUTATED", "changes what it is given"),
        ("skips_some_copies", "layer_norm", "TIMED", "right in the proof"),
        ("caches_a_few_values", "mlp", "CACHE", "keeps"),
        ("caches_by_pointer", "layer_norm", "STALE", "same addresses"),
        ("returns_one_buffer", "layer_norm", "ALIAS", "an earlier result"),
    ],
)
def test_kernel_is_refused(name, slot, code, words, few_cases, monkeypatch):
    monkeypatch.setattr(caches, "COPIES", 8)
    monkeypatch.setattr(run, "REPLAYED", 5)
    outcome = judge_file(str(KERNELS / f"{name}.py"), slot, QUICK)
    assert outcome.code == code, f"{outcome.code}: {outcome.text}"
    assert words in outcome.text
    assert not outcome.races


ADDRESSES = """
import torch

CALLS, SEEN = [], set()


def layer_norm(x, weight, bias, eps=1e-5):
    CALLS.append(1)
    SEEN.update(a.data_ptr() for a in (x, weight, bias))
    out = torch.nn.functional.layer_norm(x, weight.shape, weight, bias, eps)
    out[0, :2] = torch.tensor([len(CALLS), len(SEEN)])
    return out
"""


def test_one_order_calls_every_copy_at_addresses_of_its_own(tmp_path):
    path = tmp_path / "kernel.py"
    path.write_text(ADDRESSES)
    dice = Dice(1)
    case = Case("x", (dice.normal(3, 50), dice.normal(50), dice.normal(50)))
    contents = [dice.vary(case) for _ in range(7)]
    order = {"path": str(path), "slot": "layer_norm", "threads": 1, "device": STAND_IN}
    with Sandbox(order) as child:
        child.case(case, [torch.empty(3, 50)], copies=7)
        child.write(*contents)
        child.call(look_at=[5, 0, 2])
        assert list(child.seen) == [5, 0, 2]
        for n, (out,) in child.seen.items():
            x, weight, bias = contents[n].args
            right = F.layer_norm(x, weight.shape, weight, bias, 1e-5)
            assert torch.equal(out[1:], right[1:])
            assert out[0, :2].tolist() == [n + 1, 3 * (n + 1)]
            child.check_untouched(contents[n], n)
        with pytest.raises(Refused, match="changes what it is given"):
            child.check_untouched(contents[1], 2)


def test_what_only_a_device_shows_is_tested_on_one():
    assert set(REFUSED) >= ON_A_DEVICE


def test_no_command_line_names_the_stand_in(capsys):
    with pytest.raises(cli.UsageError, match="--device stand-in"):
        cli.usable(STAND_IN)


def test_rates_of_a_device_are_measured_in_a_worker():
    ours = [run.fair.__name__, "contestants", ["layer_norm", "cpu"]]
    with Sandbox({"threads": 1, "device": STAND_IN, "ours": ours}) as worker:
        rates = roof.device_rates(worker)
        assert list(rates) == list(roof.KINDS)
        assert min(rates.values()) > 1e6
        wide, narrow = (roof.device_roof(worker, t) for t in (torch.float32, torch.bfloat16))
    assert wide.bandwidth == narrow.bandwidth == rates["copy"]
    assert wide.rate == max(rates["float32"], rates["TF32"])
    assert narrow.rate == max(rates["float32"], rates["bfloat16"], rates["float16"])


class Silent(Sandbox):
    """A worker that does not answer."""

    def __init__(self):
        self.limit, self.to_compile, self.buffer = 0.2, True, b""
        self.arena = torch.zeros(1, dtype=torch.uint8)
        self.poll = SimpleNamespace(poll=lambda _milliseconds: [])

    def close(self):
        pass


def test_a_compiler_may_take_its_time_and_launched_work_may_not(monkeypatch):
    monkeypatch.setattr(parent, "COMPILE_LIMIT", 1.0)
    with pytest.raises(Refused, match="not done after 1 s"):
        Silent().compiled(time.perf_counter())
    launched, start = Silent(), time.perf_counter()
    launched.arena[-1] = 1
    assert launched.compiled(start) < start + 0.5
    assert not launched.to_compile


class Timed:
    """A worker of which every call takes a given time."""

    device, pid, prepares = STAND_IN, 1, False

    def __init__(self, seconds, room=1 << 33, l2=1 << 20):
        self.seconds, self.loaded = seconds, {"gpu": {"free": room, "l2": l2}}
        self.n, self.grown, self.contents = 0, 0, []

    def case(self, *_, copies):
        self.n = copies

    def write(self, *contents):
        assert len(contents) == self.n
        self.contents = contents

    def call(self):
        seconds = self.seconds
        if callable(seconds):
            seconds = seconds(len({id(c) for c in self.contents})) / self.n
        return Call(seconds, 0.0, 0.0, True, 0.0, None)

    def settle(self):
        return 0.0, (1 << 33) - self.grown


CASE = Case("x", (torch.zeros(2, 500_000),))
OUTS = [torch.zeros(2, 500_000)]  # with the case 8 MB


@pytest.mark.parametrize(
    ("seconds", "l2", "room", "expected"),
    [
        (1e-5, 1 << 20, 1 << 40, 120),  # 1.2 ms
        (1e-2, 50 << 20, 1 << 40, 27),  # four times the cache
        (1e-2, 1 << 20, 1 << 40, 2),  # never one alone
        (1e-7, 1 << 20, 1 << 40, 134),  # 1 GiB
        (1e-7, 1 << 20, 640_000_000, 10),  # an eighth of the memory
    ],
)
def test_copies_take_a_millisecond_and_exceed_the_cache(seconds, l2, room, expected, monkeypatch):
    monkeypatch.setattr(copies.shutil, "disk_usage", lambda _: type("Disk", (), {"free": 1 << 40}))
    worker = Timed(seconds, room, l2)
    assert copies.enough([(worker, "")], CASE, OUTS, Dice(1), 8e6) == expected


def test_repeats_that_take_less_time_are_a_cache():
    honest = Timed(lambda _different: 16e-3)
    assert len(caches.replay(honest, CASE, OUTS, Dice(1), 8)) == 16
    caching = Timed(lambda different: 1e-3 * different)
    with pytest.raises(Refused, match="keeps its answers") as refused:
        caches.replay(caching, CASE, OUTS, Dice(1), 8)
    assert refused.value.code == "CACHE"


def test_device_memory_that_grows_with_every_input_is_a_cache(monkeypatch):
    hoarding = Timed(lambda _different: 16e-3)
    write = hoarding.write

    def grow(*contents):
        write(*contents)
        hoarding.grown += 4_000_000 * len({id(c) for c in contents})

    hoarding.write = grow
    with pytest.raises(Refused, match="its memory grows"):
        caches.replay(hoarding, CASE, OUTS, Dice(1), 8)


def test_device_at_work_in_the_rivals_turn_is_refused():
    idle, busy = [5e-5] * 9, [5e-5] * 3 + [5e-2] * 6
    guard.fair(made_up(settling={"": idle, TWIN: idle}), REFERENCE, TWIN)
    guard.fair(made_up(settling={"": busy, TWIN: busy}), REFERENCE, TWIN)  # a busy machine
    with pytest.raises(Refused, match="when it is not its turn") as refused:
        guard.fair(made_up(settling={"": busy, TWIN: idle}), REFERENCE, TWIN)
    assert refused.value.code == "THREAD"


def test_unequal_clocks_give_no_ratio():
    assert made_up(clocks={"": [1980.0] * 9, REFERENCE: [1900.0] * 9}).unclear() == ""
    slowed = made_up(clocks={"": [1980.0] * 9, REFERENCE: [1200.0] * 9})
    assert slowed.unclear() == "the GPU ran at 1980 MHz for the kernel and 1200 for the reference"
    assert made_up(clocks={"": [float("nan")], REFERENCE: [float("nan")]}).unclear() == ""


def test_what_a_cache_holds_is_not_held_against_a_kernel():
    race = made_up(candidate=5e-5)  # of 1 MB at 10 GB/s
    with pytest.raises(Refused, match="needs at least"):
        guard.fair(race, REFERENCE, TWIN)
    guard.fair(replace(race, cached=6e5), REFERENCE, TWIN)
    assert race.of_roof() == pytest.approx(2, rel=0.1)


def test_difference_of_stream_and_device_counts_for_all_copies_together():
    """A call of 50 us whose events say 2 us; one copy alone would be within the allowance."""
    race = made_up(candidate=6e-5, roof=roof.Roof(0, 0), events=[2e-6] * 40)
    guard.fair(race, REFERENCE, TWIN)
    with pytest.raises(Refused) as refused:
        guard.fair(replace(race, copies=20), REFERENCE, TWIN)
    assert refused.value.code == "STREAM"


def test_runtime_has_every_function_that_is_called():
    """With the types that ctypes is told, which are checked before a call, as without a GPU."""
    try:
        runtime = ctypes.CDLL(device.cuda_runtime())
    except OSError as error:
        pytest.skip(str(error))
    for name, types in device.SIGNATURES.items():
        getattr(runtime, name).argtypes = types
    assert runtime.cudaMemcpy(1 << 40, 1 << 40, 0, device.TO_DEVICE) in range(1000)
    assert runtime.cudaEventCreate(ctypes.c_void_p()) in range(1000)
    np.testing.assert_equal(runtime.cudaMemGetInfo(*(ctypes.c_size_t() for _ in range(2))) >= 0, 1)
