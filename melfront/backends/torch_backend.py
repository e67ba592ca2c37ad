"""The front end in torch: any device, batched, differentiable, the same numbers as `oracle.py`.

Three ways lead to them. A tensor on a CPU whose features nobody differentiates is computed as an
array is, without a copy. `features_by_autograd` is what a torch user would write; it takes a
list of clips, on any device, under autograd, and is transformers' computation to 3e-7.
`log_mel_of_tensor` never looks at a value and never takes a batch apart. It serves the tools that
record it and replay it on other clips (torch.export, torch.compile, vmap), and every device but the
CPU, where launching a kernel costs more than the arithmetic in it: some 15 kernels for any batch,
no copy from the host, nothing that a CUDA graph could not capture.

    # B clips  L samples  N n_fft = 400  F frames, H that hear the clips
    # K frequencies = 201  M mel bins
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import melfront

from ..audio import Clips, check_shape, is_tensor, is_traced, padded_length, samples_of, to_float
from ..conventions import CHUNK_LENGTH, HOP_LENGTH, N_FFT, SAMPLE_RATE, Convention, named_convention
from . import numpy_backend
from .forks import one_thread_in_forks
from .front_end import OURS, Kernels
from .numpy_backend import frames_heard
from .steps import Steps, is_followed
from .torch_constants import constants


def log_mel(
    clips: Clips,
    length: int,
    n_mels: int,
    convention: Convention,
    check_range: bool,
    compiled: bool,
    kernels: Kernels = OURS,
) -> Tensor:
    """Clips of up to `length` samples to features, (M, F) or (B, M, F), on their device.

    `convention` is one of the named ones. float64 clips give float64, all others float32. Raises
    AudioError as `Clips.check` does. Reproduces `variants.run`.
    """
    given = clips.arrays[0]
    if torch.jit.is_tracing():  # type: ignore[attr-defined]  # public, not in __all__
        raise TypeError("torch.jit.trace would keep the lengths of a list; give it a tensor (B, N)")
    recorded = any(map(is_followed, clips.arrays))
    as_arrays = kernels is OURS and on_cpu(given.device) and not recorded
    if as_arrays and not is_traced(given):
        # NumPy's float64 features are as exact as its float32 ones; the kernel's would not be.
        double = given.dtype == torch.float64
        compute = numpy_backend.in_float64 if double else melfront.for_arrays(compiled)
        return torch.from_numpy(compute(clips.numpy(), length, n_mels, convention, check_range))
    clips.check(check_range)
    arrays = clips.cut(length).arrays
    steps = Steps(kernels, clips.batched)
    features = features_by_autograd(arrays, length, n_mels, convention, steps)  # (B, M, F)
    if convention.fill is not None:
        ends = torch.tensor([len(clip) // HOP_LENGTH for clip in arrays], device=given.device)
        frames = torch.arange(features.shape[-1], device=given.device)
        features = features.masked_fill(frames >= ends[:, None, None], convention.fill)
    features = features.to(given.dtype)
    return features if clips.batched else features[0]


def log_mel_of_arrays(
    clips: Clips,
    length: int,
    n_mels: int,
    convention: Convention,
    check_range: bool,
    kernels: Kernels,
) -> NDArray[np.float32]:
    """`log_mel` of NumPy arrays, with kernels, which take tensors: float32, or as precise as the
    convention. They get a copy of the clips."""
    with torch.no_grad(), np.errstate(over="ignore"):  # infinity is found by the check
        tensors = [torch.from_numpy(c.astype(convention.precision)) for c in clips.arrays]
        copies = Clips(tensors, clips.batched)
        features = log_mel(copies, length, n_mels, convention, check_range, False, kernels)
        return features.float().numpy()


def features_by_autograd(
    clips: list[Tensor], length: int, n_mels: int, convention: Convention, steps: Steps
) -> Tensor:
    """Clips to features (B, M, F), in steps that autograd can follow."""
    one_thread_in_forks()
    if steps.kernels.log_mel is not None:
        return steps.log_mel(stack(clips), length, n_mels)
    dtype = torch.float64 if convention.precision == "float64" else clips[0].dtype
    window, filters = constants(clips[0], n_mels, dtype)
    total = length + convention.extra_padding
    heard = [frames_heard(len(clip), length, convention) for clip in clips]
    n_heard = max(heard)
    x = pad(stack(clips), total, n_heard)
    frames = x.unfold(-1, N_FFT, HOP_LENGTH)[:, :n_heard]  # (B, H, N)
    mel = steps.mel(steps.stft(frames, window), filters)  # (B, M, H)

    uncounted = None
    if convention.max_frames == "clip" and min(heard) < n_heard:
        others = torch.arange(n_heard) >= torch.tensor(heard)[:, None, None]  # (B, 1, H)
        uncounted = others.to(mel.device)
    n_frames = length // HOP_LENGTH
    return steps.log_scale(mel, uncounted, n_frames, n_frames - n_heard, convention)


def stack(clips: list[Tensor]) -> Tensor:
    """Clips (n,) as a batch, zeros after the shorter ones -> (B, longest).

    One kernel where all are equally long; pad_sequence would copy them one by one.
    """
    longest = max(map(len, clips))
    return torch.stack(
        [c if len(c) == longest else functional.pad(c, (0, longest - len(c))) for c in clips]
    )


def pad(x: Tensor, length: int, n_heard: int) -> Tensor:
    """`oracle.pad` of a batch (B, n), as far as the frames that hear it reach -> (B, P)."""
    half = N_FFT // 2
    reach = (n_heard - 1) * HOP_LENGTH + half  # first sample that no such frame hears
    end = min(max(reach, half + 1), length)
    beyond = max(0, reach - length)  # the right edge is heard only if a clip fills the length
    x = x[:, :end]
    if x.shape[-1] < end and (x.shape[-1] <= half or beyond):  # zeros are mirrored too
        x = functional.pad(x, (0, end - x.shape[-1]))
    zeros = x.new_zeros(()).expand(len(x), end - x.shape[-1]) if x.shape[-1] < end else x[:, :0]
    left = x[:, 1 : half + 1].flip(-1)
    right = x[:, length - 1 - beyond : length - 1].flip(-1) if beyond else x[:, :0]
    return torch.cat([left, x, zeros, right], dim=-1)


def on_cpu(device: torch.device) -> bool:
    return device.type == "cpu"


def taken_whole(audio: Tensor) -> bool:
    """Does `log_mel_of_tensor` compute the features of this tensor?"""
    return not audio.is_nested and (not on_cpu(audio.device) or is_traced(audio))


def log_mel_of_tensor(
    audio: Tensor,
    n_mels: int,
    convention: Convention,
    pad_to: float | None,
    truncate: bool,
    return_mask: bool,
    kernels: Kernels = OURS,
) -> Any:
    """A tensor (n,) or (B, n) to features (M, F) or (B, M, F), and their mask if asked for.

    A tool that traces this call runs it again on clips of other values, lengths and number, so n
    is used as a symbol then, and frames that hear only silence are computed too.
    """
    check_shape(audio)
    n_clips, n = (1, *audio.shape)[-2:]
    x = to_float(audio, "audio").reshape(n_clips, n)  # (B, n): an error, later, for other axes
    steps = Steps(kernels, batched=audio.ndim == 2)
    if kernels.log_mel is None:
        features = features_of_batch(x, n_mels, convention, pad_to, truncate, steps)
    elif is_traced(x):
        features = steps.log_mel(*fit_traced(x, pad_to, truncate), n_mels)
    else:
        length = padded_length(n, pad_to, truncate)
        features = steps.log_mel(x[:, :length], length, n_mels)
    features = features.to(x.dtype)
    features = features if audio.ndim == 2 else features[0]
    if not return_mask:
        return features
    frame = torch.arange(features.shape[-1], device=x.device)
    mask = torch.zeros_like(features[..., 0, :], dtype=torch.int32) + (frame * HOP_LENGTH < n)
    return features, mask


def features_of_batch(
    x: Tensor,
    n_mels: int,
    convention: Convention,
    pad_to: float | None,
    truncate: bool,
    steps: Steps,
) -> Tensor:
    """Clips (B, n) to features (B, M, F), without a look at their values."""
    n = x.shape[-1]
    # onnxruntime's Fourier transform errs by 5e-3 in float32.
    double = convention.precision == "float64" or torch.onnx.is_in_onnx_export()
    dtype = torch.float64 if double else x.dtype
    window, filters = constants(x, n_mels, dtype)
    if is_traced(x):
        padded, length = pad_traced(x, pad_to, truncate, convention)
        n_heard, n_silent = (length + convention.extra_padding) // HOP_LENGTH, 0
    else:
        length = padded_length(n, pad_to, truncate)
        n_heard = frames_heard(min(n, length), length, convention)
        n_silent = length // HOP_LENGTH - n_heard
        padded = pad(x[:, :length], length + convention.extra_padding, n_heard)
    frames = padded.unfold(-1, N_FFT, HOP_LENGTH)[:, :n_heard]  # (B, H, N)
    mel = steps.mel(steps.stft(frames, window), filters)  # (B, M, H)

    uncounted = None
    if convention.max_frames == "clip" and is_traced(x):
        own = (n + convention.extra_padding) // HOP_LENGTH
        uncounted = torch.arange(mel.shape[-1], device=x.device) >= own
    features = steps.log_scale(mel, uncounted, length // HOP_LENGTH, n_silent, convention)
    if convention.fill is not None and is_traced(x):
        frame = torch.arange(features.shape[-1], device=x.device)  # (F,)
        features = features.masked_fill(frame >= n // HOP_LENGTH, convention.fill)
    elif convention.fill is not None:
        features[..., n // HOP_LENGTH :].fill_(convention.fill)
    return features


def pad_traced(
    x: Tensor, pad_to: float | None, truncate: bool, convention: Convention
) -> tuple[Tensor, int]:
    """`oracle.pad` of a traced batch (B, n) -> (B, L + 400), and L, a symbol where n is one."""
    x, length = fit_traced(x, pad_to, truncate)
    total = length + convention.extra_padding
    x = functional.pad(x, (0, convention.extra_padding))
    half = torch.arange(N_FFT // 2, device=x.device)
    left = x.index_select(-1, N_FFT // 2 - half)
    right = x.index_select(-1, total - 2 - half)
    return torch.cat([left, x, right], dim=-1), length


def fit_traced(x: Tensor, pad_to: float | None, truncate: bool) -> tuple[Tensor, int]:
    """A traced batch (B, n) cut or filled with zeros -> (B, L), and L, a symbol where n is one."""
    n = x.shape[-1]
    known = isinstance(n, int)  # not under torch.export and torch.jit.trace
    if pad_to is None and not known:
        return x, n
    length = padded_length(n if known else 0, pad_to, truncate)
    if not known and not truncate:
        # Of this one zero the index is 1 for a clip that is too long: an error, when it comes.
        too_long = n // (length + 1) + torch.arange(1, device=x.device)
        x = x + x.new_zeros(1).index_select(0, too_long)
    x = functional.pad(x, (0, length))[:, :length]  # (B, L)
    return x, length


def of_module(audio: Tensor, **options: Any) -> Any:
    if not is_tensor(audio):
        raise TypeError("LogMel takes tensors; melfront.log_mel takes NumPy arrays too")
    return melfront.log_mel(audio, **options)


torch.fx.wrap("of_module")  # torch.fx.symbolic_trace takes it as one step


class LogMel(nn.Module):
    """The front end as a module: waveform (N,) or (B, N) in, features (M, F) or (B, M, F) out.

    Works on the device of the waveform it is given, keeps no state, has no parameters, and is
    differentiable with respect to the waveform. float64 gives float64, other types float32.
    Takes n_mels, convention, pad_to, truncate and check_range as `melfront.log_mel` does, and
    raises the same errors, and TypeError for anything but a tensor.

    torch.export, torch.onnx.export(dynamo=True), torch.compile, torch.func and torch.jit.trace keep
    batch and length dynamic. Values are not checked then; a clip longer than pad_to, or too short,
    is an IndexError of what was exported. torch.jit.script cannot compile it. It computes by the
    kernels of `melfront.using` in each call, also when compiled.
    Reproduces transformers' WhisperFeatureExtractor.
    """

    def __init__(
        self,
        n_mels: int = 128,
        convention: str | Convention = "transformers",
        pad_to: float | None = CHUNK_LENGTH,
        truncate: bool = False,
        check_range: bool = True,
    ) -> None:
        super().__init__()
        self.n_mels = n_mels
        self.convention = named_convention(convention)
        # torch.compile(dynamic=True) keeps an int, and makes a float an input of the graph.
        self.n_samples = None if pad_to is None else samples_of(pad_to)
        self.truncate = truncate
        self.check_range = check_range

    @property
    def pad_to(self) -> float | None:
        return None if self.n_samples is None else self.n_samples / SAMPLE_RATE

    def forward(self, audio: Tensor) -> Tensor:
        options: Any = {"n_mels": self.n_mels, "convention": self.convention.name}
        options |= {"pad_to": self.pad_to, "truncate": self.truncate}
        return of_module(audio, check_range=self.check_range, **options)

    def extra_repr(self) -> str:
        return f"n_mels={self.n_mels}, convention={self.convention.name!r}, pad_to={self.pad_to}"
