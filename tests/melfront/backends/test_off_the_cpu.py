"""The path of every device except the CPU: the whole batch at once, in few kernels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import melfront
from melfront.backends import torch_backend
from tests.signals import Signal, signals

CONVENTIONS = list(melfront.CONVENTIONS)
# Operations that do not launch a kernel.
VIEWS = {
    "alias",
    "as_strided",
    "detach",
    "empty",
    "expand",
    "permute",
    "select",
    "slice",
    "transpose",
    "unfold",
    "unsqueeze",
    "view",
    "_unsafe_view",
    "unbind",
    "view_as_real",
    "view_as_complex",
}
MOST = 18  # kernels: one each for padding, framing, window and FFT, the rest for arithmetic


class Kernels(TorchDispatchMode):
    """Count the kernels that a device would run, and the devices involved."""

    def __init__(self):
        super().__init__()
        self.launched, self.devices = [], set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        result = function(*args, **(kwargs or {}))
        if name not in VIEWS:
            self.launched += [name] * (2 if name == "constant_pad_nd" else 1)  # fills, then copies
        tensors = [x for x in (*tree_leaves(args), result) if isinstance(x, torch.Tensor)]
        self.devices |= {x.device.type for x in tensors}
        return result


@pytest.mark.parametrize("seconds", [8.1, 30.0])
@pytest.mark.parametrize("n_clips", [1, 16, 256])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_number_of_kernels_does_not_depend_on_the_batch(convention, n_clips, seconds):
    batch = torch.empty(n_clips, round(16_000 * seconds), device="meta")
    log_mel = melfront.LogMel(convention=convention)
    log_mel(batch)  # creates the constants
    with Kernels() as kernels:
        log_mel(batch)
    assert len(kernels.launched) <= MOST, kernels.launched
    # Copying a tensor from the host stalls the device and cannot be captured in a CUDA graph.
    assert kernels.devices == {"meta"}


def test_equally_long_clips_are_stacked_by_one_kernel():
    clips = [torch.empty(16_000, device="meta") for _ in range(64)]
    with Kernels() as kernels:
        assert torch_backend.stack(clips).shape == (64, 16_000)
    assert len(kernels.launched) == 1, kernels.launched


@pytest.fixture(scope="module")
def as_off_the_cpu():
    """Make the CPU take the path of other devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_backend, "on_cpu", lambda device: False)
        yield


@given(signal=signals(3.0), n_clips=st.integers(1, 3), n_mels=st.sampled_from([128, 80, 37]))
@settings(max_examples=4)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_batch_matches_the_oracle(as_off_the_cpu, convention, n_mels, n_clips, signal):
    """All in float64: only the order of sums differs, so 1e-10 is far above rounding."""
    clip = signal.array().astype(np.float64)
    batch = np.stack([clip * 0.5**i for i in range(n_clips)])
    for pad_to in (3.1, None) if clip.size >= 201 else (3.1,):
        options = {"n_mels": n_mels, "pad_to": pad_to, "convention": convention}
        ours = melfront.log_mel(torch.tensor(batch), **options)
        truth = melfront.variants.log_mel(batch, **options)
        assert ours.is_contiguous()
        assert np.abs(ours.numpy() - truth).max() <= 1e-10


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_list_of_clips_matches_the_oracle(as_off_the_cpu, convention):
    clips = [Signal("speech", n, seed=n).array().astype(np.float64) for n in (9_001, 777, 9_001)]
    ours, mask = melfront.log_mel(
        [torch.tensor(clip) for clip in clips], convention=convention, return_mask=True
    )
    truth = melfront.variants.log_mel(clips, convention=convention)
    assert np.abs(ours.numpy() - truth).max() <= 1e-10
    assert mask.sum(1).tolist() == [57, 5, 57]


def test_gradients_match_the_cpu_path(as_off_the_cpu):
    clip = torch.tensor(Signal("speech", 9_001, seed=5).array().astype(np.float64))
    along = torch.randn(2, 128, 56, generator=torch.Generator().manual_seed(1)).double()
    gradients = []
    for batch in (clip.expand(2, -1).clone(), [clip.clone(), clip.clone()]):
        leaves = [x.requires_grad_() for x in ([batch] if torch.is_tensor(batch) else batch)]
        (melfront.log_mel(batch, pad_to=None) * along).sum().backward()
        gradients.append(torch.stack([x.grad for x in leaves]).reshape(2, -1))
    scale = gradients[1].abs().max()
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-12 * scale
