"""`ops.using` in threads, asyncio tasks and generators, with an eager and a compiled model."""

import asyncio
import contextvars
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import FunctionType

import pytest
import torch

from melfront import encoder
from melfront.encoder import WhisperEncoder, ops
from tests.encoder.peers import TOY, features


def times(factor):
    return lambda x: factor * ops.gelu(x)


GELUS = [times(1 + i / 8) for i in range(7)]
MODEL = WhisperEncoder.from_formula(replace(TOY, n_audio_layer=1))  # less to compile
MEL = torch.from_numpy(features(TOY, batch=2))


def outputs(gelus):
    """The eager model's output with each GELU."""
    outs = []
    for gelu in gelus:
        with ops.using(gelu=gelu):
            outs.append(MODEL(MEL)[0])
    for i, out in enumerate(outs):
        assert not any(torch.allclose(out, other, rtol=1e-3) for other in outs[:i])
    return outs


@pytest.fixture(params=["eager", "compiled"])
def model(request):
    """The model, eager or compiled as one graph. The backend runs the graph eagerly: same bits."""
    torch.compiler.reset()
    # New threads get as many as this one, whatever has set its own: a graph is for one number.
    torch.set_num_threads(torch.get_num_threads())
    yield (
        MODEL if request.param == "eager" else torch.compile(MODEL, backend="eager", fullgraph=True)
    )
    torch.compiler.reset()


# Threads


def test_eight_threads(model):
    """Seven threads with a function each and one with the default call the model at once."""
    expected = [*outputs(GELUS), MODEL(MEL)[0]]
    step = threading.Barrier(8, timeout=100)

    def work(i):
        seen = []
        for _ in range(3):
            step.wait()
            if i == 7:
                seen.append(model(MEL)[0])
                continue
            with ops.using(gelu=GELUS[i]):
                step_out = model(MEL)[0]
                seen.append(step_out)
        return seen

    with ThreadPoolExecutor(8) as pool:
        for i, seen in enumerate(pool.map(work, range(8))):
            assert [out.equal(expected[i]) for out in seen] == [True] * 3, i
    assert model(MEL)[0].equal(expected[7])


@pytest.mark.parametrize("leaves_first", ["here", "elsewhere"])
def test_overlapping_blocks_of_two_threads(model, leaves_first):
    here, there = outputs(GELUS[1:3])
    ours = MODEL(MEL)[0]
    inside, leave = threading.Event(), threading.Event()

    def elsewhere():
        with ops.using(gelu=GELUS[2]):
            assert model(MEL)[0].equal(there)
            inside.set()
            leave.wait(100)
            assert model(MEL)[0].equal(there)
        assert model(MEL)[0].equal(ours)

    with ThreadPoolExecutor(1) as pool:
        with ops.using(gelu=GELUS[1]):
            job = pool.submit(elsewhere)
            inside.wait(100)
            assert model(MEL)[0].equal(here)
            if leaves_first == "elsewhere":
                leave.set()
                job.result(100)
                assert model(MEL)[0].equal(here)
        assert model(MEL)[0].equal(ours)
        leave.set()
        job.result(100)
    assert model(MEL)[0].equal(ours)


# Asyncio


def test_interleaved_tasks(model):
    expected = outputs(GELUS)

    async def work(i):
        with ops.using(gelu=GELUS[i]):
            for _ in range(3):
                await asyncio.sleep(0)
                assert model(MEL)[0].equal(expected[i])
        await asyncio.sleep(0)
        return ops.current()

    async def everything():
        return await asyncio.gather(*map(work, range(len(GELUS))))

    assert asyncio.run(everything()) == [ops.Ops()] * len(GELUS)


def test_task_started_in_a_block_keeps_its_functions(model):
    (expected,) = outputs(GELUS[1:2])

    async def work(left):
        await left.wait()
        return model(MEL)[0]

    async def everything():
        left = asyncio.Event()
        with ops.using(gelu=GELUS[1]):
            task = asyncio.create_task(work(left))
            in_a_thread = await asyncio.to_thread(lambda: model(MEL)[0])
        left.set()
        return [in_a_thread, await task, model(MEL)[0]]

    in_a_thread, in_a_task, after = asyncio.run(everything())
    assert in_a_thread.equal(expected)
    assert in_a_task.equal(expected)
    assert after.equal(MODEL(MEL)[0])


def test_async_generator_closed_by_another_task(model):
    """Test runners start an async fixture in one task and close it in another."""
    (expected,) = outputs(GELUS[1:2])

    async def fixture():
        with ops.using(gelu=GELUS[1]):
            yield model(MEL)[0]

    async def everything():
        for begin_in_a_task in (True, False):
            made = fixture()
            first = made.__anext__()
            seen = await (asyncio.create_task(first) if begin_in_a_task else first)
            assert seen.equal(expected)
            await asyncio.create_task(made.aclose())
            assert model(MEL)[0].equal(MODEL(MEL)[0])
            assert ops.current() == ops.Ops()

    asyncio.run(everything())
    assert ops.current() == ops.Ops()


# Generators


def block(**functions):
    """A generator that enters a block at its first value and leaves it at its end."""
    with ops.using(**functions):
        yield


@pytest.mark.parametrize("first", [0, 1])
def test_overlapping_generators_in_one_thread(model, first):
    """Whichever is closed first, only the other's function stays in use."""
    before = ops.current()
    names = ["gelu", "softmax"]
    made = [block(gelu=GELUS[1]), block(softmax=torch.sigmoid)]
    for generator in made:
        next(generator)
    assert (ops.current().gelu, ops.current().softmax) == (GELUS[1], torch.sigmoid)
    made[first].close()
    stays, gone = names[1 - first], names[first]
    assert getattr(ops.current(), stays) in (GELUS[1], torch.sigmoid)
    assert getattr(ops.current(), gone) is getattr(ops, gone)
    out = model(MEL)[0]
    made[1 - first].close()
    assert ops.current() == before
    assert out.equal(outputs(GELUS[1:2])[0] if stays == "gelu" else MODEL(MEL)[0])
    assert model(MEL)[0].equal(MODEL(MEL)[0])


@pytest.mark.parametrize("where", ["a thread", "a context", "a copy of this context"])
def test_generator_closed_elsewhere(model, where):
    (expected,) = outputs(GELUS[1:2])
    generator = block(gelu=GELUS[1])
    next(generator)
    assert model(MEL)[0].equal(expected)
    if where == "a thread":
        with ThreadPoolExecutor(1) as pool:
            pool.submit(generator.close).result(100)
    else:
        copied = where == "a copy of this context"
        context = contextvars.copy_context() if copied else contextvars.Context()
        context.run(generator.close)
        assert context.run(ops.current) == ops.Ops()
    assert ops.current() == ops.Ops()
    assert model(MEL)[0].equal(MODEL(MEL)[0])
    with ops.using(gelu=GELUS[1]) as table:  # later blocks still work
        assert ops.current() is table
        assert model(MEL)[0].equal(expected)


def test_endlessly_overlapping_blocks_do_not_accumulate():
    last = block(gelu=GELUS[0])
    next(last)
    for _ in range(2000):
        following = block(gelu=GELUS[1])
        next(following)
        last.close()
        last = following
    assert len(ops._slots.blocks.get()) <= 2
    last.close()
    assert ops.current() == ops.Ops()


# Functions that torch.compile could mistake for each other


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * ops.gelu(x)

    def method(self, x):
        return self.factor * ops.gelu(x)


def of_a_global(x):
    return factor * ops.gelu(x)  # noqa: F821  # set by the test


@dataclass
class Unhashable(Scaled):
    factor: float


@pytest.mark.parametrize(
    "make",
    [
        times,
        lambda c: lambda x, c=c: c * ops.gelu(x),
        lambda c: lambda x, *, c=c: c * ops.gelu(x),
        lambda c: functools.partial(lambda x, c: c * ops.gelu(x), c=c),
        lambda c: times(torch.tensor(c)),
        Scaled,
        lambda c: Scaled(c).method,
        lambda c: FunctionType(of_a_global.__code__, {"factor": c, "ops": ops, "__builtins__": {}}),
        Unhashable,
    ],
    ids=[
        "closure",
        "default",
        "keyword",
        "partial",
        "tensor",
        "instance",
        "method",
        "globals",
        "unhashable",
    ],
)
def test_functions_with_the_same_code(make):
    torch.compiler.reset()
    compiled = torch.compile(MODEL, backend="eager", fullgraph=True)
    gelus = [make(factor) for factor in (1.5, 2.0, 2.5)]
    expected = outputs(gelus)
    for _ in range(2):
        for gelu, out in zip(gelus, expected, strict=True):
            with ops.using(gelu=gelu):
                assert compiled(MEL)[0].equal(out)
    assert compiled(MEL)[0].equal(MODEL(MEL)[0])


def test_compiled_once_per_function_up_to_the_recompile_limit():
    torch.compiler.reset()
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(MODEL, backend=backend, fullgraph=True)
    for _ in range(3):
        compiled(MEL)
        for gelu in (torch.relu, torch.tanh):
            with ops.using(gelu=gelu):
                compiled(MEL)
    assert len(graphs) == 3
    with torch._dynamo.config.patch(recompile_limit=3), ops.using(gelu=torch.sigmoid):
        refused = pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit)
        with refused:
            compiled(MEL)
    torch.compiler.reset()


def test_block_inside_a_compiled_function():
    """dynamo cannot trace the block: it runs in Python, or with fullgraph raises an error."""

    def within(mel):
        with ops.using(gelu=GELUS[1]):
            return MODEL(mel)[0]

    torch.compiler.reset()
    (expected,) = outputs(GELUS[1:2])
    for _ in range(2):
        assert torch.compile(within, backend="eager")(MEL).equal(expected)
        assert ops.current() == ops.Ops()
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(within, backend="eager", fullgraph=True)(MEL)
    assert MODEL(MEL)[0].equal(outputs([ops.gelu])[0])


def test_export_contains_the_functions_in_use():
    """During an export, proxies replace the weights; they still count as plain weights."""
    gelu, linear = times(1.5), lambda x, *weights: 2 * ops.linear(x, *weights)
    with ops.using(gelu=gelu, linear=linear):
        expected = MODEL(MEL)[0]
        with torch.no_grad():
            program = torch.export.export(MODEL, (MEL,)).module()
    assert torch.allclose(program(MEL)[0], expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, MODEL(MEL)[0], rtol=1e-3)


def test_trace_uses_the_same_functions_as_the_model():
    with ops.using(gelu=GELUS[1]):
        assert encoder.trace(MODEL, MEL)["ln_post"].equal(MODEL(MEL)[0])
