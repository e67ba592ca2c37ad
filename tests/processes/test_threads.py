"""Threads, processes and calls in a row: nothing that one leaves behind reaches another.

Every result is compared bit for bit with what one thread gives, of clips that all differ: equal
clips would hide that a thread got another's memory.
"""

import asyncio
import hashlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import melfront
from encoder import WhisperEncoder, ops
from melfront import LogMel, log_mel
from tests.conftest import CHECKOUT

N_THREADS = 8
MODEL = WhisperEncoder.from_pretrained("formula:toy")
FRAMES = MODEL.config.n_frames
FRONT_END = LogMel(n_mels=80)


def clip(i: int, seconds: float = 3.0) -> np.ndarray:
    """Noise, louder and longer with i: (N,)."""
    rng = np.random.default_rng(i)
    n = round(seconds * 16_000) + 161 * (i % 7)
    return (0.01 * (1 + i % 9) * rng.standard_normal(n)).astype(np.float32)


def mel(i: int) -> torch.Tensor:
    """(M, F) of the toy encoder."""
    generator = torch.Generator().manual_seed(i)
    return torch.randn(MODEL.config.n_mels, FRAMES, generator=generator)


@torch.no_grad()
def of_encoder(i: int) -> torch.Tensor:
    return torch.cat(MODEL(mel(i), output_hidden_states=True).hidden_states)


@torch.no_grad()
def of_encoder_with_a_kernel(i: int) -> torch.Tensor:
    """Each with another function in use."""
    with ops.using(gelu=lambda x: x.clamp(min=0) * (1 + i)):
        return MODEL(mel(i)).last_hidden_state


def of_differentiable(i: int) -> torch.Tensor:
    audio = torch.from_numpy(clip(i)).requires_grad_()
    features = FRONT_END(audio)
    features.sum().backward()
    return torch.cat([features.detach().flatten(), audio.grad])


def of_extractor(i: int) -> np.ndarray:
    return EXTRACTORS[i % 2](clip(i), sampling_rate=16_000, return_tensors="np").input_features


EXTRACTORS: list[object] = []
CALLS = {
    "compiled": lambda i: log_mel(clip(i), n_mels=(80, 128)[i % 2]),
    "batch": lambda i: log_mel([clip(i), clip(i + 50), clip(i + 100)]),
    "numpy": lambda i: log_mel(clip(i), compiled=False),
    "LogMel": lambda i: FRONT_END(torch.from_numpy(clip(i))),
    "differentiable": of_differentiable,
    "extractor": of_extractor,
    "encoder": of_encoder,
    "encoder with a kernel": of_encoder_with_a_kernel,
}


@pytest.fixture(params=CALLS)
def call(request):
    if request.param == "extractor" and not EXTRACTORS:
        pytest.importorskip("transformers")
        extractor = melfront.WhisperFeatureExtractor
        EXTRACTORS[:] = [extractor(), extractor(feature_size=128)]
    return CALLS[request.param]


def bits(x) -> bytes:
    return np.asarray(x.detach() if isinstance(x, torch.Tensor) else x).tobytes()


def digest(x) -> str:
    return hashlib.sha256(bits(x)).hexdigest()


# --- threads --------------------------------------------------------------------------------------


def assert_threads_give_what_one_gives(call, n: int) -> None:
    alone = [digest(call(i)) for i in range(n)]
    together = threading.Barrier(N_THREADS, timeout=100)

    def work(first: int) -> list[tuple[int, str]]:
        together.wait()
        return [(i, digest(call(i))) for i in ((first + k) % n for k in range(n))]

    with ThreadPoolExecutor(N_THREADS) as pool:
        seen = [*itertools.chain(*pool.map(work, range(N_THREADS)))]
    assert len(seen) == N_THREADS * n
    assert [i for i, found in seen if found != alone[i]] == []


def test_eight_threads(call):
    assert_threads_give_what_one_gives(call, 4)


@pytest.mark.slow
def test_eight_threads_for_long(call):
    """2,560 results."""
    assert_threads_give_what_one_gives(call, 40)


def test_asyncio(call):
    """`asyncio.to_thread`, as a server calls it, beside a task that calls it in the loop."""
    alone = [bits(call(i)) for i in range(3)]

    async def in_the_loop(i: int):
        await asyncio.sleep(0)
        return call(i)

    async def everything():
        in_threads = [asyncio.to_thread(call, i) for i in range(3)]
        return await asyncio.gather(*in_threads, *map(in_the_loop, range(3)))

    assert [bits(x) for x in asyncio.run(everything())] == 2 * alone


# --- calls in a row -------------------------------------------------------------------------------


def test_result_is_its_own(call):
    """What a later call computes, or somebody writes into a result, changes no other result."""
    first = call(0)
    kept = bits(first)
    second = call(1)
    assert bits(first) == kept
    np.asarray(second)[:] = 7
    assert bits(first) == kept
    assert bits(call(0)) == kept
    assert bits(call(1)) != bits(second)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("convention", melfront.CONVENTIONS)
@pytest.mark.parametrize("seconds", [30, 0.5])
def test_result_shares_no_memory_with_the_input(convention, compiled, seconds):
    """Of 30 s nothing needs padding: a backend could be tempted to compute in place."""
    whole = clip(0, 30)[: 30 * 16_000]
    audio = next(melfront.chunks(whole, seconds))  # a view
    before = whole.copy()
    for given in (audio, [audio, audio], torch.from_numpy(audio)):
        features, mask = log_mel(given, convention=convention, compiled=compiled, return_mask=True)
        assert not np.shares_memory(np.asarray(features), whole)
        np.asarray(features)[:], np.asarray(mask)[:] = 7, 7
        assert np.array_equal(whole, before)


def test_encoder_leaves_its_input():
    given = mel(0)
    before = given.clone()
    with torch.no_grad():
        for states in MODEL(given, output_hidden_states=True).hidden_states:
            states.fill_(7)
    assert given.equal(before)
    assert bits(of_encoder(0)) == bits(of_encoder(0)) != bits(torch.full((1,), 7.0))


# --- processes ------------------------------------------------------------------------------------


class Features(torch.utils.data.Dataset):
    """What a DataLoader computes in its workers: features, and hidden states."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> dict[str, str]:
        return digests(i)


def digests(i: int) -> dict[str, str]:
    return {name: digest(call(i)) for name, call in CALLS.items() if name != "extractor"}


@pytest.fixture
def alone(monkeypatch):
    """What this process computes with one thread, as a worker does: MKL's sums depend on that."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield [digests(i) for i in range(4)]
    torch.set_num_threads(n_threads)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_data_loader(alone, start):
    """After this process has used model, kernel and threads; another is at work beside."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        loader = DataLoader(
            Features(),
            batch_size=None,
            num_workers=2 if start == "fork" else 1,
            multiprocessing_context=start,
            timeout=100,
        )
        assert [*loader] == alone
    finally:
        busy.kill()
        busy.wait()


def test_pool_of_forked_processes(alone):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(digests, range(4)).get(100) == alone


# With two threads, whatever the machine has: with one, OpenMP starts none that a fork could lose.
FORK = """
import os, sys, torch
from concurrent.futures import ThreadPoolExecutor
torch.set_num_threads(2)
{}
before = call()
torch.ones(600, 600) @ torch.ones(600, 600)
torch.ones(1_000_000).exp()
if (child := os.fork()) == 0:
    here = call()
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(call).result()
    os._exit(0 if here.shape == before.shape and here.equal(there) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
PARENTS = {
    "encoder": """
from melfront.encoder import WhisperEncoder
model = WhisperEncoder.from_pretrained("formula:toy")
mel = torch.ones(1, model.config.n_mels, model.config.n_frames)
call = torch.no_grad()(lambda: model(mel).last_hidden_state)
""",
    "differentiable": """
import melfront
audio = torch.ones(4, 48_000).requires_grad_()
call = lambda: melfront.log_mel(audio)
""",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("name", PARENTS)
def test_forked_child_does_not_wait_for_ever(name):
    """OpenMP's threads stay with the parent, and a child that wants them waits."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    code = FORK.format(PARENTS[name])
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=CHECKOUT, env=environment, start_new_session=True
    )
    try:
        assert process.wait(100) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
