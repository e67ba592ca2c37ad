"""The ops against the oracle, and the table of the functions in use."""

import threading
from collections import Counter
from dataclasses import asdict, fields

import numpy as np
import pytest
import torch
from scipy.special import erf

from melfront import encoder
from melfront.encoder import WhisperEncoder, ops, oracle
from tests.encoder.peers import TOY, features, rms

SLOTS = [field.name for field in fields(ops.Ops)]
FLOAT64 = 1e-13  # relative: 1e-16 per step, and no sum here has more than a hundred terms


def random(device, *shape, seed=1, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal(shape)).to(device, dtype)


def array(x):
    return x.detach().cpu().double().numpy()


def assert_close(ours, truth, bound=FLOAT64):
    assert ours.shape == truth.shape
    assert rms(array(ours) - truth) <= bound * rms(truth)


# Each op against the oracle


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("n_frames", [1, 2, 13, 22])
def test_conv1d(device, stride, n_frames):
    x, weight, bias = (random(device, *s) for s in [(3, 7, n_frames), (11, 7, 3), (11,)])
    out = ops.conv1d(x, weight, bias, stride=stride)
    assert out.shape == (3, 11, (n_frames - 1) // stride + 1)
    for item, result in zip(x, out, strict=True):
        assert_close(result, oracle.conv1d(array(item), array(weight), array(bias), stride))


def test_gelu_is_the_exact_one(device):
    x = torch.linspace(-11, 11, 20_011, dtype=torch.float64, device=device)
    exact = array(x) * 0.5 * (1 + erf(array(x) / np.sqrt(2)))
    assert np.abs(array(ops.gelu(x)) - exact).max() <= 1e-14
    assert np.abs(oracle.gelu(array(x)) - exact).max() <= 1e-14
    # The docstrings state this difference for the tanh form.
    tanh = torch.nn.functional.gelu(x, approximate="tanh")
    assert 4.7e-4 < np.abs(array(tanh) - exact).max() < 4.8e-4


def test_layer_norm(device):
    x, weight, bias = (random(device, *s) for s in [(3, 11, 29), (29,), (29,)])
    for scale in (1.0, 1e-3, 1e3):  # 1e-3: eps is ten times the variance
        truth = oracle.layer_norm(array(scale * x), array(weight), array(bias))
        assert_close(ops.layer_norm(scale * x, weight, bias), truth)
    assert ops.LAYER_NORM_EPS == 1e-5


def test_layer_norm_with_a_large_offset(device):
    """In float32, E[x^2] - E[x]^2 would be noise here: the mean has to be subtracted first."""
    weight, bias = (random(device, 1283, seed=s, dtype=torch.float32) for s in (2, 3))
    x = random(device, 5, 1283, dtype=torch.float32) + 3000
    truth = oracle.layer_norm(array(x), array(weight), array(bias))
    # An ulp of 3000 is 2.4e-4; the mean is accurate to a fraction of an ulp.
    assert_close(ops.layer_norm(x, weight, bias), truth, 1e-4)


def test_linear(device):
    x, weight, bias = (random(device, *s) for s in [(3, 11, 29), (17, 29), (17,)])
    assert_close(ops.linear(x, weight, bias), oracle.linear(array(x), array(weight), array(bias)))
    assert_close(ops.linear(x, weight), oracle.linear(array(x), array(weight)))


def test_qkv(device):
    x = random(device, 3, 11, 26)
    weights = [random(device, 26, 26, seed=seed) for seed in (1, 2, 3)]
    biases = [random(device, 26, seed=4), None, random(device, 26, seed=5)]
    q, k, v = ops.qkv(x, weights[0], biases[0], weights[1], weights[2], biases[2])
    for out, weight, bias in zip((q, k, v), weights, biases, strict=True):
        bias = 0.0 if bias is None else array(bias)
        assert_close(out, oracle.linear(array(x), array(weight), bias))


def test_attention(device):
    q, k, v = (random(device, 3, 5, 11, 13, seed=seed) for seed in (1, 2, 3))
    scores = oracle.scores(array(q), array(k))
    weights = oracle.softmax(scores)
    assert_close(ops.scores(q, k), scores)
    assert_close(ops.softmax(ops.scores(q, k)), weights)
    assert_close(ops.attention(q, k, v), weights @ array(v))
    assert_close(ops.explicit_attention(q, k, v), weights @ array(v))
    # In float32, the two sum in different orders: they differ by some ulp of 6e-8.
    q, k, v = q.float(), k.float(), v.float()
    assert_close(ops.explicit_attention(q, k, v), array(ops.attention(q, k, v)), 1e-6)


def test_softmax_of_huge_scores(device):
    """exp of any of these overflows or underflows: the largest has to be subtracted first."""
    rows = [[1e4, 1e4 + 1, 1e4 - 3], [-1e4, -1e4 - 1, -1e4 + 2], [3e38, 0, -3e38], [0, 700, 710]]
    rows = torch.tensor(rows, dtype=torch.float32, device=device)
    shares = ops.softmax(rows)
    assert_close(shares, oracle.softmax(array(rows)), 1e-6)
    assert np.abs(array(shares).sum(axis=-1) - 1).max() <= 1e-6
    q = torch.full((1, 1, 3, 13), 1e4, device=device)
    v = random(device, 1, 1, 3, 13, dtype=torch.float32)
    for attention in (ops.attention, ops.explicit_attention):  # equal scores: the mean of v
        mean = np.broadcast_to(array(v).mean(axis=-2, keepdims=True), v.shape)
        assert_close(attention(q, q, v), mean, 1e-6)


def test_mlp(device):
    x, w1, b1, w2, b2 = (
        random(device, *s, seed=i)
        for i, s in enumerate([(3, 11, 26), (17, 26), (17,), (26, 17), (26,)])
    )
    w = {"fc1.weight": w1, "fc1.bias": b1, "fc2.weight": w2, "fc2.bias": b2}
    w = {name: array(tensor) for name, tensor in w.items()}
    assert_close(ops.mlp(x, w1, b1, w2, b2), oracle.mlp(array(x), w, oracle.no_tap))


# The table of functions in use


@pytest.fixture
def model(device):
    return WhisperEncoder.from_formula(TOY, device=device)


@pytest.fixture
def mel(device):
    return torch.from_numpy(features(TOY, batch=2)).to(device)


def spies(calls):
    """Our function for every slot, wrapped to count its calls."""

    def spy(slot):
        def counted(*args, **kwargs):
            calls[slot] += 1
            return getattr(ops, slot)(*args, **kwargs)

        return counted

    return {slot: spy(slot) for slot in SLOTS}


def test_model_calls_only_functions_of_the_table(model, mel):
    expected = model(mel).last_hidden_state
    n = TOY.n_audio_layer
    plain = {"conv1d": 2, "gelu": 2 + n, "layer_norm": 2 * n + 1, "linear": 6 * n}
    plain |= {"qkv": n, "attention": n, "mlp": n}
    calls = Counter()
    with ops.using(**spies(calls)):
        assert model(mel).last_hidden_state.equal(expected)
    assert calls == plain

    # Explicit attention and a trace also call scores and softmax.
    calls.clear()
    with ops.using(**spies(calls) | {"attention": ops.explicit_attention}):
        model(mel)
    assert calls + Counter(attention=n) == plain | {"scores": n, "softmax": n}
    calls.clear()
    with ops.using(**spies(calls)):
        encoder.trace(model, mel)
    assert calls == plain | {"scores": n, "softmax": n, "gelu": 2 + 2 * n, "linear": 7 * n}


@pytest.mark.parametrize("slot", SLOTS)
def test_using_replaces_only_one_slot(model, mel, slot):
    before, expected = ops.current(), model(mel).last_hidden_state

    def other(*args, **kwargs):
        out = getattr(ops, slot)(*args, **kwargs)
        return tuple(1.5 * x for x in out) if isinstance(out, tuple) else 1.5 * out

    with ops.using(attention=ops.explicit_attention):  # so that scores and softmax matter
        within = ops.current()
        with ops.using(**{slot: other}) as table:
            assert ops.current() is table
            changed = {name for name in SLOTS if getattr(table, name) != getattr(within, name)}
            assert changed == {slot}
            assert getattr(table, slot) is other
            assert not torch.allclose(model(mel).last_hidden_state, expected, rtol=1e-3)
        assert ops.current() is within
    assert ops.current() is before
    assert model(mel).last_hidden_state.equal(expected)


def test_using_is_undone_after_an_exception():
    before = ops.current()
    with pytest.raises(ZeroDivisionError), ops.using(gelu=torch.relu):
        raise ZeroDivisionError
    assert ops.current() is before


def test_using_only_affects_its_own_thread():
    seen = {}
    inside, done = threading.Event(), threading.Event()

    def elsewhere():
        with ops.using(gelu=torch.tanh):
            inside.set()
            done.wait(10)
            seen["elsewhere"] = ops.current().gelu

    thread = threading.Thread(target=elsewhere)
    with ops.using(gelu=torch.relu):
        thread.start()
        inside.wait(10)
        seen["here"] = ops.current().gelu
        done.set()
        thread.join()
    assert seen == {"here": torch.relu, "elsewhere": torch.tanh}
    thread = threading.Thread(target=lambda: seen.update(new=ops.current().gelu))
    with ops.using(gelu=torch.relu):
        thread.start()
        thread.join()
    assert seen["new"] is ops.gelu


def test_compiled_in_one_piece_with_the_functions_in_use(model, mel):
    """`aot_eager` traces both passes as for any compiler, but runs them without compiling."""
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    given = mel.clone().requires_grad_()
    plain = mel.clone().requires_grad_()
    out, expected = compiled(given).last_hidden_state, model(plain).last_hidden_state
    assert (out - expected).abs().max() <= 1e-5
    out.square().sum().backward()
    expected.square().sum().backward()
    assert (given.grad - plain.grad).abs().max() <= 1e-5 * plain.grad.abs().max()
    with ops.using(gelu=torch.relu):
        other = compiled(mel).last_hidden_state
        assert (other - model(mel).last_hidden_state).abs().max() <= 1e-5
    assert (other - expected).abs().max() > 1e-2
    assert (compiled(mel).last_hidden_state - expected).abs().max() <= 1e-5


def test_using_refuses_an_unknown_slot():
    wrong = ops.using(norm=torch.relu, gelu=torch.relu, flash=torch.relu)
    with pytest.raises(ValueError, match=r"no slot named flash, norm; expected one of conv1d, "):
        wrong.__enter__()
    assert asdict(ops.current()) == {slot: getattr(ops, slot) for slot in SLOTS}
