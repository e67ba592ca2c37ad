"""What fills a slot is gone with its block: for the encoder, the front end and a table of one."""

import asyncio
import contextvars
import functools
import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
import torch

import melfront
from melfront.backends.front_end import FRONT_END
from melfront.backends.slots import Slots
from melfront.encoder import WhisperEncoder, ops
from tests.encoder.peers import TOY, features


def twice(x):
    return 2 * x


@dataclass(frozen=True)
class Table:
    f: Callable = twice
    g: Callable | None = None


SLOTS = Slots(Table())
X = torch.arange(1.0, 6.0)


def model(x):
    """6 x with ours: 3 f(x)."""
    return 3 * SLOTS.current().f(x)


def times(factor):
    return lambda x: factor * x


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    assert SLOTS.current() is SLOTS.ours
    assert ops.current() is ops.OURS
    assert FRONT_END.current() is FRONT_END.ours
    torch.compiler.reset()


@pytest.fixture(params=["eager", "compiled"])
def run(request):
    return model if request.param == "eager" else torch.compile(model, backend="eager")


def counted(function):
    """The function compiled, and the list of its graphs."""
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    return torch.compile(function, backend=backend, fullgraph=True), graphs


# A compiled model in two threads: `here` has a block, `elsewhere` has none.


def of_encoder():
    encoder = WhisperEncoder.from_formula(replace(TOY, n_audio_layer=1))
    mel = torch.from_numpy(features(TOY, batch=2))
    last = functools.partial(lambda encoder, mel: encoder(mel).last_hidden_state, encoder)
    return last, mel, ops.using, {"gelu": lambda x: 1.5 * ops.gelu(x)}


def of_front_end():
    clips = 0.1 * torch.randn(2, 3_203, generator=torch.Generator().manual_seed(1))
    kernel = {"mel": lambda power, filters: 7 * (filters @ power.mT)}
    return melfront.LogMel(n_mels=5, pad_to=0.3), clips, melfront.using, kernel


def of_table():
    return model, X, SLOTS.using, {"f": times(5)}


CASES = [
    pytest.param(of, first, opaque, marks=[] if of is of_table or quick else pytest.mark.slow)
    for of in (of_table, of_front_end, of_encoder)
    for first in ("before", "here", "elsewhere")
    for opaque in (False, True)
    for quick in [(first, opaque) == ("elsewhere", False)]
]


@pytest.mark.parametrize(("of", "first", "opaque"), CASES)
@torch.no_grad()
def test_another_thread_calls_the_compiled_model(of, first, opaque):
    """Compiled before the block, in it, or in the other thread meanwhile.

    opaque: the kernel is none that torch.compile can read, so that the graph is in pieces.
    """
    called, x, using, kernels = of()
    if opaque:
        kernels = {slot: torch.compiler.disable(kernel) for slot, kernel in kernels.items()}
    ours = called(x)
    with using(**kernels):
        theirs = called(x)
    assert not torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2)
    compiled = torch.compile(called, backend="eager", fullgraph=not opaque)

    def is_ours():  # the front end's arrays are float64, its graph is float32
        return torch.allclose(compiled(x), ours, rtol=1e-4, atol=1e-4)

    def is_theirs():
        return torch.allclose(compiled(x), theirs, rtol=1e-4, atol=1e-4)

    with ThreadPoolExecutor(1) as elsewhere:
        if first == "before":
            assert is_ours()
        with using(**kernels):
            if first == "here":
                assert is_theirs()
            assert elsewhere.submit(is_ours).result(100)
            assert is_theirs()
            assert elsewhere.submit(is_ours).result(100)
        assert is_ours()
        assert elsewhere.submit(is_ours).result(100)


# The end of a block


def test_exception_in_the_block(run):
    def within():
        with SLOTS.using(f=times(5)):
            assert run(X).equal(15 * X)
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            within()
        assert run(X).equal(6 * X)


def test_exception_in_the_kernel(run):
    def broken(x):
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError), SLOTS.using(f=broken):
            run(X)
        assert run(X).equal(6 * X)


@pytest.mark.parametrize("first", ["here", "elsewhere"])
def test_interleaved_exits_of_two_threads(run, first):
    inside, leave = threading.Event(), threading.Event()

    def elsewhere():
        with SLOTS.using(f=times(7)):
            inside.set()
            leave.wait(100)
            assert run(X).equal(21 * X)
        assert run(X).equal(6 * X)

    with ThreadPoolExecutor(1) as pool:
        with SLOTS.using(f=times(5)):
            job = pool.submit(elsewhere)
            inside.wait(100)
            if first == "elsewhere":
                leave.set()
                job.result(100)
            assert run(X).equal(15 * X)
        assert run(X).equal(6 * X)
        leave.set()
        job.result(100)
        assert pool.submit(run, X).result(100).equal(6 * X)


def test_interleaved_tasks(run):
    async def work(i):
        with SLOTS.using(f=times(i)):
            for _ in range(3):
                await asyncio.sleep(0)
                assert run(X).equal(3 * i * X)
        assert run(X).equal(6 * X)

    async def everything():
        await asyncio.gather(*map(work, range(3, 8)))

    asyncio.run(everything())


@pytest.mark.parametrize("where", ["a thread", "another context", "a copy of this context"])
def test_generator_closed_elsewhere(run, where):
    def block():
        with SLOTS.using(f=times(5)):
            yield

    generator = block()
    next(generator)
    assert run(X).equal(15 * X)
    if where == "a thread":
        with ThreadPoolExecutor(1) as pool:
            pool.submit(generator.close).result(100)
    else:
        context = contextvars.copy_context() if "copy" in where else contextvars.Context()
        context.run(generator.close)
        assert context.run(run, X).equal(6 * X)
    assert run(X).equal(6 * X)


@pytest.mark.parametrize("closed", ["in its place", "in a thread"])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_function_is_freed(compiled, closed):
    """A kernel may hold gigabytes of packed weights. torch.compile may hold it until a reset."""
    run = torch.compile(model, backend="eager") if compiled else model
    packed = [torch.full((5,), 5.0)]
    freed = weakref.ref(packed[0])

    def block(packed):
        with SLOTS.using(f=lambda x: packed * x):
            assert run(X).equal(15 * X)
            yield

    generator = block(packed.pop())
    next(generator)
    if closed == "in a thread":
        with ThreadPoolExecutor(1) as pool:
            pool.submit(generator.close).result(100)
    del generator
    if compiled:
        torch.compiler.reset()
    gc.collect()
    assert freed() is None


# The name of a table, which torch.compile's guard compares


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def method(self, x):
        return self.factor * x


def test_compiled_once_for_each_function():
    """A method is another object each time that it is looked up, and still the same function."""
    run, graphs = counted(model)
    fives, sevens, function = Scaled(5), Scaled(7), times(11)
    for _ in range(3):
        for f, factor in [(fives.method, 5), (sevens.method, 7), (function, 11)]:
            with SLOTS.using(f=f):
                assert run(X).equal(3 * factor * X)
    assert len(graphs) == 3


def test_new_functions_at_old_addresses_have_new_names():
    """A freed function leaves its address to a new one of the same code."""
    addresses, names = set(), set()
    for factor in range(100):
        function = times(factor)
        addresses.add(id(function))
        with SLOTS.using(f=function):
            names.add(SLOTS.in_use.name)
    assert len(addresses) < 100
    assert len(names) == 100


def test_ours_in_a_block_is_compiled_like_ours_without():
    run, graphs = counted(model)
    assert run(X).equal(6 * X)
    with SLOTS.using(f=times(5)), SLOTS.using(f=None) as table:
        assert table is SLOTS.ours
        assert run(X).equal(6 * X)
    with SLOTS.using():
        assert run(X).equal(6 * X)
    assert len(graphs) == 1


# Arguments


def test_none_is_ours_whatever_is_around():
    def fallback(x):
        if len(x) < 3:
            return 5 * x
        with SLOTS.using(f=None):
            return model(x)

    with SLOTS.using(f=fallback):
        assert model(X[:2]).equal(15 * X[:2])
        assert model(X).equal(18 * X)
        with SLOTS.using(g=twice) as table:  # leaves f alone
            assert (table.f, table.g) == (fallback, twice)


@pytest.mark.parametrize("using", [SLOTS.using, ops.using, melfront.using])
def test_unknown_slots_and_what_is_no_function(using):
    with pytest.raises(
        ValueError, match=r"no slot named flash, norm; expected one of [a-z0-9_, ]+$"
    ):
        using(norm=twice, flash=twice).__enter__()
    slot = {SLOTS.using: "f", ops.using: "gelu"}.get(using, "stft")
    with pytest.raises(TypeError, match=rf"{slot}=3; expected a function, or None for ours$"):
        using(**{slot: 3}).__enter__()
