"""The torch backend: devices, dtypes, gradients, the module."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import melfront
from melfront import variants
from melfront.backends import torch_constants
from tests.melfront.test_oracle import stft_formula
from tests.signals import Signal, signals

CONVENTIONS = list(melfront.CONVENTIONS)


def is_mps(device: str) -> bool:
    return device.startswith("mps")  # has no float64


@given(signal=signals(3.0))
@settings(max_examples=6)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_float64_matches_the_oracle(device, convention, signal):
    if is_mps(device):
        pytest.skip("mps has no float64")
    clip = signal.array().astype(np.float64)
    options = {"n_mels": 37, "pad_to": 3.1, "convention": convention}
    ours = melfront.log_mel(torch.tensor(clip, device=device), **options)
    assert ours.dtype == torch.float64
    assert np.abs(ours.cpu().numpy() - variants.log_mel(clip, **options)).max() <= 1e-10


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("n_mels", [128, 80, 37, 3])
def test_any_number_of_threads(threads, n_mels):
    """One thread and several threads use different memory layouts. The clip has two blocks."""
    clip = Signal("speech", 270_017, seed=4).array().astype(np.float64)
    clip[100_000:150_000] = 0  # the log of zero must not leak
    ours = melfront.log_mel(torch.tensor(clip), n_mels=n_mels)
    assert np.abs(ours.numpy() - melfront.oracle.log_mel(clip, n_mels=n_mels)).max() <= 1e-10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_shorter_floats_give_float32(device, dtype):
    clip = torch.tensor(Signal("speech", 9_001, seed=3).array(), device=device).to(dtype)
    features = melfront.log_mel(clip)
    assert features.dtype == torch.float32
    assert torch.equal(features, melfront.log_mel(clip.float()))


def test_result_stays_on_the_device(device):
    clip = torch.tensor(Signal("speech", 9_001, seed=3).array(), device=device)
    features, mask = melfront.log_mel([clip, clip[:777]], return_mask=True)
    assert features.device == mask.device == clip.device
    assert features.shape == (2, 128, 3_000)
    assert mask.shape == (2, 3_000)
    assert mask.sum(1).tolist() == [57, 5]


# The meta device has shapes without values. A constant left on the CPU would raise an error.


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int16])
def test_meta_device(convention, dtype):
    clip = torch.empty(9_001, dtype=dtype, device="meta")
    features, mask = melfront.log_mel(clip, n_mels=37, convention=convention, return_mask=True)
    assert (features.shape, features.device.type) == ((37, 3_000), "meta")
    assert (mask.shape, mask.device.type) == ((3_000,), "meta")
    batch = melfront.log_mel([clip, clip[:777]], convention=convention, pad_to=None)
    assert (batch.shape, batch.device.type) == ((2, 128, 56), "meta")
    assert melfront.LogMel(37, convention).to("meta")(clip[None]).shape == (1, 37, 3_000)


def test_gradients_on_meta():
    clip = torch.empty(9_001, device="meta", requires_grad=True)
    melfront.log_mel(clip).sum().backward()
    assert clip.grad is not None
    assert clip.grad.shape == (9_001,)


def test_default_device_and_dtype_have_no_effect():
    clip = torch.tensor(Signal("speech", 9_001, seed=3).array())
    expected = melfront.log_mel(clip)
    torch_constants.made_once.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            features, mask = melfront.log_mel(clip, return_mask=True)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(features, expected)
    assert mask.device.type == "cpu"


# Gradients


@pytest.mark.parametrize("n", [401, 4_001, 9_600])
@pytest.mark.parametrize("kind", ["speech", "noise"])
def test_gradients_match_transformers_formula(device, kind, n):
    if is_mps(device):
        pytest.skip("mps has no float64")
    clip = torch.tensor(Signal(kind, n, seed=5).array(), dtype=torch.float64)
    theirs = clip.clone().requires_grad_()
    features = stft_formula(theirs, 37)
    along = torch.tensor(np.random.default_rng(1).standard_normal(features.shape))
    (features * along).sum().backward()

    ours = clip.to(device).requires_grad_()
    result = melfront.log_mel(ours, n_mels=37, pad_to=None)
    assert torch.allclose(result.cpu(), features, rtol=0, atol=1e-10)
    (result * along.to(device)).sum().backward()
    assert theirs.grad is not None
    assert ours.grad is not None
    scale = theirs.grad.abs().max()
    assert ((ours.grad.cpu() - theirs.grad).abs().max() / scale) <= 1e-10


def test_gradcheck(device):
    if is_mps(device):
        pytest.skip("mps has no float64")
    noise = np.random.default_rng(3).uniform(-1, 1, (2, 211))
    clips = torch.tensor(noise, device=device, requires_grad=True)

    def features(x):
        return melfront.log_mel(x, n_mels=3, pad_to=0.02)  # 320 samples, the last ones silent

    options = {"eps": 1e-7, "atol": 1e-5, "fast_mode": True}
    # A GPU may sum overlapping windows in a different order each time: a few roundings.
    options["nondet_tol"] = 0.0 if device == "cpu" else 1e-12
    assert torch.autograd.gradcheck(features, (clips,), **options)


def test_gradients_in_float32_and_of_silence(device):
    clip = torch.tensor(Signal("speech", 9_001, seed=3).array(), device=device)
    clip.requires_grad_()
    melfront.log_mel(clip).mean().backward()
    assert clip.grad is not None
    assert clip.grad.isfinite().all()
    assert clip.grad.abs().max() > 0
    silence = torch.zeros(9_001, device=device, requires_grad=True)
    melfront.log_mel(silence).mean().backward()
    assert silence.grad is not None
    assert (silence.grad == 0).all()


def test_recorded_and_not_recorded_agree(device):
    """The CPU runs different code with and without autograd, in float64 and in float32."""
    arrays = np.stack([Signal("speech", 98_017, seed=s).array() for s in (3, 5)])
    clips = torch.tensor(arrays).to(device)
    plain = melfront.log_mel(clips)
    recorded = melfront.log_mel(clips.requires_grad_())
    assert recorded.requires_grad
    noise = np.abs(recorded.detach().cpu().numpy() - melfront.oracle.log_mel(arrays)).max()
    assert (plain - recorded).abs().max().item() <= max(3e-5, 1.1 * noise)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_tensors_on_a_cpu_give_the_bits_of_arrays(convention):
    clips = [Signal("speech", n, seed=n).array() for n in (9_001, 777, 16_007)]
    options = {"n_mels": 37, "pad_to": 1.3, "convention": convention}
    expected = melfront.log_mel(clips, **options)
    tensors = [*map(torch.from_numpy, clips)]
    assert np.array_equal(melfront.log_mel(tensors, **options).numpy(), expected)
    assert np.array_equal(
        melfront.LogMel(37, convention, 1.3)(tensors[0]), melfront.log_mel(clips[0], **options)
    )


# Compiled


@pytest.mark.parametrize("convention", ["transformers", "openai-transcribe"])
def test_compiled_gives_the_same_features_and_gradients(convention):
    """Traced by torch, forward and backward; a slow test also compiles to machine code."""
    compare_compiled("aot_eager", convention)


@pytest.mark.slow
def test_compiled_for_this_machine():
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler: there is no `g++` on the PATH")
    compare_compiled("inductor", "transformers")


def compare_compiled(backend, convention):
    torch.compiler.reset()
    torch_constants.made_once.cache_clear()
    clips = torch.tensor(np.stack([Signal("speech", 9_001, seed=s).array() for s in (3, 5)]))
    frontend = melfront.LogMel(37, convention, pad_to=1.0)
    along = torch.tensor(np.random.default_rng(1).standard_normal((2, 37, 100)))
    results = []
    for function in (torch.compile(frontend, backend=backend), frontend):
        given = clips.double().requires_grad_()
        features = function(given)
        (features * along).sum().backward()
        results.append((features.detach(), given.grad))
    (compiled, its_grad), (plain, grad) = results
    assert (compiled - plain).abs().max() <= 1e-10
    assert (its_grad - grad).abs().max() <= 1e-10 * grad.abs().max()
    with torch.inference_mode():
        assert (torch.compile(frontend, backend=backend)(clips) - plain).abs().max() <= 1e-4


# The module


def test_module(device):
    frontend = melfront.LogMel(n_mels=37, convention="openai", pad_to=1.0).to(device)
    assert list(frontend.parameters()) == []
    assert frontend.state_dict() == {}
    clip = torch.tensor(Signal("speech", 9_001, seed=3).array(), device=device)
    expected = melfront.log_mel(clip, n_mels=37, convention="openai", pad_to=1.0)
    assert torch.equal(frontend(clip), expected)
    assert torch.equal(frontend.double()(clip), expected)
    assert frontend(torch.stack([clip, clip])).shape == (2, 37, 100)
    assert repr(frontend) == "LogMel(n_mels=37, convention='openai', pad_to=1.0)"


def test_module_and_long_clips(device):
    long = torch.zeros(480_001, device=device)
    with pytest.raises(melfront.AudioError, match="30"):
        melfront.LogMel()(long)
    assert melfront.LogMel(truncate=True)(long).shape == (128, 3_000)
    assert melfront.LogMel(pad_to=None)(long).shape == (128, 3_000)
    with pytest.raises(ValueError, match="unknown convention 'kaldi'"):
        melfront.LogMel(convention="kaldi")
    with pytest.raises(TypeError, match=r"takes tensors; melfront\.log_mel takes NumPy arrays too"):
        melfront.LogMel()(long.cpu().numpy())


def test_inference_mode_first_then_gradients(device):
    """The first call creates constants. As inference tensors, autograd could not use them."""
    torch_constants.made_once.cache_clear()
    frontend = melfront.LogMel(n_mels=37).to(device)
    clip = torch.tensor(Signal("speech", 9_001, seed=3).array(), device=device)
    with torch.inference_mode():
        expected = frontend(clip)
    with torch.no_grad():
        assert torch.equal(frontend(clip), expected)
    clip.requires_grad_()
    frontend(clip).sum().backward()
    assert clip.grad is not None


def test_module_refuses_an_unnamed_convention():
    from dataclasses import replace

    odd = replace(melfront.CONVENTIONS["openai"], periodic=False)
    with pytest.raises(ValueError, match="periodic"):
        melfront.LogMel(convention=odd)
