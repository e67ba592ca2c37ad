"""The front end in torch: any device, batched, differentiable, the same numbers as `oracle.py`.

It works as `numpy_backend.py` does, whose head says why: only frames that hear the clip are
computed, and the filter bank, doubled for real and imaginary parts, is applied in bands.

    # B clips  L samples  N n_fft = 400  F frames, H that hear the clips, G in a block
    # K frequencies = 201  M mel bins
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from .audio import Clips, as_clips, fit_length
from .conventions import (
    CHUNK_LENGTH,
    HOP_LENGTH,
    N_FFT,
    Convention,
    named_convention,
)
from .numpy_backend import Layout, bands

BLOCK = 512  # frames: 512 x 402 floats are 0.8 MB
LOG10_FLOOR = -10.0  # log10(LOG_FLOOR)


@lru_cache(maxsize=16)
def constants(
    n_mels: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, list[tuple[slice, slice, Tensor]]]:
    """Window and bands of the filter bank, made once per device and kept there."""
    name = str(dtype).removeprefix("torch.")
    with torch.inference_mode(False):  # what is made in inference mode could not be used outside
        # torch's float32 window is 2e-7 off, as much as the FFT's rounding; next to a loud tone
        # that moves a feature by 2e-4. It is transformers' window, so we move along with it.
        window = torch.hann_window(N_FFT, dtype=dtype, device=device)
        filters = [
            (band.mels, band.parts, torch.from_numpy(band.weights).to(device))
            for band in bands(n_mels, name)
        ]
    return window, filters


def pad(clips: list[Tensor], length: int, n_heard: int) -> Tensor:
    """`oracle.pad` of the clips, as far as the frames that hear one of them reach -> (B, P)."""
    half = N_FFT // 2
    reach = (n_heard - 1) * HOP_LENGTH + half  # first sample that no such frame hears
    end = min(max(reach, half + 1), length)
    x = torch.stack([functional.pad(clip[:end], (0, max(0, end - len(clip)))) for clip in clips])
    left = x[:, 1 : half + 1].flip(-1)
    beyond = max(0, reach - length)  # the right edge is heard only if a clip fills the length
    right = x[:, length - 1 - beyond : length - 1].flip(-1)
    return torch.cat([left, x, right], dim=-1)


def mel_power(frames: Tensor, n_mels: int) -> Tensor:
    """Frames (B, F, N) to mel power (B, M, F), in steps that autograd can follow."""
    window, filters = constants(n_mels, frames.dtype, frames.device)
    spectrum = torch.fft.rfft(frames * window)  # (B, F, K)
    parts = torch.view_as_real(spectrum).flatten(-2).square()  # (B, F, 2K)
    return torch.cat([weights @ parts[..., part].mT for _, part, weights in filters], dim=-2)


def mel_power_blocked(frames: Tensor, n_mels: int) -> Tensor:
    """`mel_power` clip by clip in blocks that stay in the cache, in place: the CPU's way."""
    window, filters = constants(n_mels, frames.dtype, frames.device)
    mel = frames.new_empty(len(frames), n_mels, frames.shape[1])  # (B, M, F)
    for clip, out in zip(frames, mel, strict=True):
        for first in range(0, len(clip), BLOCK):
            block = slice(first, first + BLOCK)
            parts = torch.view_as_real(torch.fft.rfft(clip[block] * window)).flatten(-2)  # (G, 2K)
            parts.mul_(parts)
            for mels, part, weights in filters:
                torch.mm(weights, parts[:, part].mT, out=out[mels, block])
    return mel


def log_mel(clips: Clips, length: int, n_mels: int, convention: Convention) -> Tensor:
    """Checked clips of up to `length` samples to features, (M, F) or (B, M, F), on their device.

    `convention` is one of the named ones. float64 clips give float64, all others float32.
    Reproduces `oracle.run`.
    """
    given = clips.arrays[0].dtype
    total = length + convention.extra_padding
    n_heard = Layout.of(max(len(clip) for clip in clips.arrays), total).n_heard
    x = pad(clips.arrays, total, n_heard)
    if convention.precision == "float64":
        x = x.double()
    frames = x.unfold(-1, N_FFT, HOP_LENGTH)[:, :n_heard]  # (B, H, N)

    recorded = torch.is_grad_enabled() and x.requires_grad
    blocked = x.device.type == "cpu" and not recorded
    mel = (mel_power_blocked if blocked else mel_power)(frames, n_mels)  # (B, M, H)
    if blocked:
        log = mel.clamp_(min=convention.log_floor).log10_()
    else:
        log = mel.clamp(min=convention.log_floor).log10()

    loudest = log.amax() if convention.max_scope == "batch" else log.amax((1, 2), keepdim=True)
    least = loudest - convention.dynamic_range
    silence = torch.clamp(least, min=LOG10_FLOOR)
    wanted = length // HOP_LENGTH
    heard = torch.maximum(log, least)[..., :wanted]
    tail = silence.expand(len(heard), n_mels, wanted - heard.shape[-1])
    clamped = torch.cat([heard, tail], dim=-1)  # (B, M, F)
    features = ((clamped + convention.offset) / convention.divisor).to(given)
    if convention.fill is not None:
        ends = torch.tensor([len(clip) // HOP_LENGTH for clip in clips.arrays], device=x.device)
        after_clip = torch.arange(wanted, device=x.device) >= ends[:, None, None]
        features = features.masked_fill(after_clip, convention.fill)
    return features if clips.batched else features[0]


class LogMel(nn.Module):
    """The front end as a module: waveform (N,) or (B, N) in, features (M, F) or (B, M, F) out.

    Works on the device of the waveform it is given, keeps no state, has no parameters, and is
    differentiable with respect to the waveform. float64 gives float64, other types float32.
    Takes n_mels, convention, pad_to and truncate as `melfront.log_mel` does, and raises what it
    raises. Reproduces transformers' WhisperFeatureExtractor.
    """

    def __init__(
        self,
        n_mels: int = 128,
        convention: str | Convention = "transformers",
        pad_to: float | None = CHUNK_LENGTH,
        truncate: bool = False,
    ) -> None:
        super().__init__()
        self.n_mels = n_mels
        self.convention = named_convention(convention)
        self.pad_to = pad_to
        self.truncate = truncate

    def forward(self, audio: Tensor) -> Tensor:
        clips = as_clips(audio)
        length = fit_length(clips, self.pad_to, self.truncate)
        return log_mel(clips.cut(length), length, self.n_mels, self.convention)

    def extra_repr(self) -> str:
        return f"n_mels={self.n_mels}, convention={self.convention.name!r}, pad_to={self.pad_to}"
