"""A process that works for a kernel, and that the kernel has not started."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from melfront.benchmarks.kernel.run import judge_file
from melfront.benchmarks.kernel.sandbox import others, processes
from melfront.benchmarks.kernel.sandbox.others import Others, Turn, at_work, helper
from melfront.benchmarks.kernel.sandbox.parent import Sandbox
from melfront.benchmarks.kernel.timing.times import REFERENCE, TWIN

from .conftest import KERNELS, QUICK, copied, order

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc")


def turns(mine, theirs, n=9):
    """What process 7 used in each turn of the kernel and of its rivals, of 2 ms each."""
    made = {"": [mine] * n, REFERENCE: [theirs] * n, TWIN: [theirs] * n}
    return {who: [Turn(2e-3, {7: used}) for used in each] for who, each in made.items()}


def test_helper_is_told_from_other_load():
    assert helper(turns(9e-4, 0.0)) == (7, 9e-4, 0.0)
    assert helper(turns(9e-4, 9e-4)) is None
    assert helper(turns(9e-4, 6e-4)) is None  # a busy machine: it took more by chance
    assert helper(turns(9e-4, 3e-4)) is not None
    assert helper(turns(5e-5, 0.0)) is None
    assert helper({}) is None
    # It would help in every second turn only; then the times' median has no use of it.
    half = turns(9e-4, 0.0)
    half[""][:5] = [Turn(2e-3, {})] * 5
    assert helper(half) is None
    # A slow kernel has long turns, in which more of other work falls.
    slow = turns(0.0, 2e-4)
    slow[""] = [Turn(5e-2, {7: 5e-3})] * 9
    assert helper(slow) is None
    # Work that comes seldom falls into each long turn, and into few short ones.
    seldom = turns(0.0, 0.0)
    seldom[""] = [Turn(0.2, {7: 1e-2})] * 9
    seldom[TWIN][4:6] = [Turn(2e-3, {7: 2e-3})] * 2
    assert helper(seldom) is None
    assert at_work(turns(2e-3, 2e-3)) == {7: 1.0}


def test_others_are_neither_ours_nor_the_systems():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spins:
        try:
            watch = Others()
            with Sandbox(order(KERNELS / "reference.py")) as child, watch.turn("", "call"):
                ours = {os.getpid(), child.pid, *processes.workers[child.pid]}
                time.sleep(0.2)
            assert spins.pid in watch.watched
            assert not ours & set(watch.watched)
            assert watch.turns["call"][""][0].used[spins.pid] > 0.01
        finally:
            spins.kill()
    assert others.name(spins.pid) == f"a process (pid {spins.pid})"


@pytest.fixture
def server(request, tmp_path):
    """A server that was there before the kernel."""
    words = [
        sys.executable,
        str(Path(__file__).with_name("server.py")),
        request.param,
        str(tmp_path),
    ]
    with subprocess.Popen(words) as started:
        while not (tmp_path / "server").exists():
            assert started.poll() is None
            time.sleep(0.05)
        yield started.pid
        started.kill()


def assert_helped(name, server, tmp_path, on_a_busy_machine=True):
    outcome = judge_file(copied(name, tmp_path), "layer_norm", QUICK)
    if not on_a_busy_machine and outcome.warning:
        return  # nothing is recorded
    assert outcome.code == "HELPED", f"{outcome.code}: {outcome.text}"
    assert f"(pid {server})" in outcome.text


@pytest.mark.parametrize("server", ["socket"], indirect=True)
def test_server_is_found(server, one_case, tmp_path):
    assert_helped("asks_a_server", server, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["file"], indirect=True)
def test_server_that_reads_a_file_is_found(server, isolated, one_case, tmp_path):
    # It looks now and then, whoever has his turn; on a busy machine that may be much.
    assert_helped("asks_through_a_file", server, tmp_path, on_a_busy_machine=False)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["tcp"], indirect=True)
def test_server_on_the_network(server, isolated, one_case, tmp_path):
    if isolated:
        judge_file(copied("asks_a_server", tmp_path), "layer_norm", QUICK)
        assert not (tmp_path / "asked").exists()
    else:
        assert_helped("asks_a_server", server, tmp_path)
