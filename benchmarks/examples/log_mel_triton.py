"""The front end with power, mel and logarithm in one Triton kernel: the spectrum is read once.

torch does the framing, the FFT, and the clamp at the clip's maximum, which has to know it all.

    python -m benchmarks kernel log_mel benchmarks/examples/log_mel_triton.py --device cuda
"""
# mypy: allow-untyped-defs

from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl

N_FREQUENCIES = 201


@lru_cache(maxsize=4)
def filters(n_mels, device):
    """Triangles on Slaney's mel scale, each of area 1: (n_mels, 201)."""
    top = 15 + 27 * np.log(8) / np.log(6.4)  # 8000 Hz
    mels = np.linspace(0, top, n_mels + 2)
    edges = np.where(mels < 15, 200 / 3 * mels, 1000 * 6.4 ** ((mels - 15) / 27))
    hz = np.arange(N_FREQUENCIES) * 40.0
    rising = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    bank = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return torch.from_numpy(bank.astype(np.float32)).to(device)


@triton.jit
def power_mel_log(
    parts,
    bank,
    out,
    n_frames,
    n_mels,
    n_bins,
    FRAMES: tl.constexpr,
    MELS: tl.constexpr,
    BINS: tl.constexpr,
):
    # parts (n_frames, n_bins, 2), bank (n_mels, n_bins), out (n_mels, n_frames)
    f = tl.program_id(0) * FRAMES + tl.arange(0, FRAMES)
    m = tl.arange(0, MELS)
    result = tl.zeros((MELS, FRAMES), tl.float32)
    for first in range(0, n_bins, BINS):
        k = first + tl.arange(0, BINS)
        at = (f[None, :] * n_bins + k[:, None]) * 2
        here = (k < n_bins)[:, None] & (f < n_frames)[None, :]
        real = tl.load(parts + at, mask=here, other=0.0)
        imaginary = tl.load(parts + at + 1, mask=here, other=0.0)
        there = (m < n_mels)[:, None] & (k < n_bins)[None, :]
        weights = tl.load(bank + m[:, None] * n_bins + k[None, :], mask=there, other=0.0)
        power = real * real + imaginary * imaginary  # (BINS, FRAMES)
        result += tl.dot(weights, power, input_precision="ieee")
    log = tl.log(tl.maximum(result, 1e-10)) * 0.4342944819032518  # 1 / ln 10
    where = m[:, None] * n_frames + f[None, :]
    tl.store(out + where, log, mask=(m < n_mels)[:, None] & (f < n_frames)[None, :])


def log_mel(audio, n_mels):
    clips = torch.nn.functional.pad(torch.atleast_2d(audio), (0, 480_000 - audio.shape[-1]))
    window = torch.hann_window(400, dtype=torch.float64, device=audio.device).float()
    spectrum = torch.stft(clips, 400, 160, window=window, return_complex=True)[..., :-1]
    parts = torch.view_as_real(spectrum.transpose(1, 2)).contiguous()  # (B, F, K, 2)
    n_frames, block = parts.shape[1], 64
    log = torch.empty(len(clips), n_mels, n_frames, device=audio.device)
    for item, to in zip(parts, log, strict=True):
        power_mel_log[(triton.cdiv(n_frames, block),)](
            item,
            filters(n_mels, audio.device),
            to,
            n_frames,
            n_mels,
            N_FREQUENCIES,
            FRAMES=block,
            MELS=triton.next_power_of_2(n_mels),
            BINS=32,
        )
    log = (torch.maximum(log, log.amax((1, 2), keepdim=True) - 8) + 4) / 4
    return log if audio.ndim == 2 else log[0]
