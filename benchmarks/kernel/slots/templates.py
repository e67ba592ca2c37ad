"""A file to start from, for every slot: plain torch, and right."""

from __future__ import annotations

import textwrap

HEAD = '''"""A kernel for the slot {slot}. Prove and time it:

    python -m benchmarks kernel {slot} THIS_FILE.py

{call}
{shapes}
{meaning}
"""
'''

BODIES = {
    "stft": """
import torch


def stft(frames, window):
    spectrum = torch.fft.rfft(frames * window)  # (..., F, K)
    return spectrum.real.square() + spectrum.imag.square()
""",
    "mel": """
def mel(power, filters):
    return filters @ power.transpose(-1, -2)
""",
    "log_scale": """
import torch


def log_scale(mel):
    log = mel.clamp(min=1e-10).log10()
    loudest = log.amax(dim=(-2, -1), keepdim=True)  # of each item
    return (torch.maximum(log, loudest - 8) + 4) / 4
""",
    "log_mel": """
import numpy as np
import torch


def filter_bank(n_mels):
    \"\"\"Triangles on Slaney's mel scale, each of area 1: (n_mels, 201).\"\"\"
    def to_hz(mels):
        return np.where(mels < 15, 200 / 3 * mels, 1000 * 6.4 ** ((mels - 15) / 27))

    top = 15 + 27 * np.log(8) / np.log(6.4)  # 8000 Hz
    edges = to_hz(np.linspace(0, top, n_mels + 2))
    hz = np.arange(201) * 40.0
    rising = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return triangles * (2 / (edges[2:] - edges[:-2]))[:, None]


def log_mel(audio, n_mels):
    filters = torch.from_numpy(filter_bank(n_mels)).to(audio)
    window = torch.hann_window(400, device=audio.device)
    audio = torch.nn.functional.pad(audio, (0, 480_000 - audio.shape[-1]))  # 30 s
    spectrum = torch.stft(audio, 400, 160, window=window, return_complex=True)[..., :-1]
    mel = filters @ spectrum.abs().square()  # (..., n_mels, 3000)
    log = mel.clamp(min=1e-10).log10()
    return (torch.maximum(log, log.amax(dim=(-2, -1), keepdim=True) - 8) + 4) / 4
""",
    "conv1d_gelu": """
from torch.nn import functional


def conv1d_gelu(x, weight, bias, stride):
    return functional.gelu(functional.conv1d(x, weight, bias, stride=stride, padding=1))
""",
    "gelu": """
import torch


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x * 0.5**0.5))
""",
    "layer_norm": """
def layer_norm(x, weight, bias, eps=1e-5):
    centred = x - x.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    return centred / (variance + eps).sqrt() * weight + bias
""",
    "linear": """
def linear(x, weight, bias=None):
    out = x @ weight.T
    return out if bias is None else out + bias
""",
    "qkv": """
from torch.nn.functional import linear


def qkv(x, q_weight, q_bias, k_weight, v_weight, v_bias):
    return linear(x, q_weight, q_bias), linear(x, k_weight), linear(x, v_weight, v_bias)
""",
    "softmax": """
def softmax(scores):
    shares = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    return shares / shares.sum(dim=-1, keepdim=True)
""",
    "attention": """
import torch


def attention(q, k, v):
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, H, T, T)
    return torch.softmax(scores, dim=-1) @ v
""",
    "mlp": """
from torch.nn.functional import gelu, linear


def mlp(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias):
    return linear(gelu(linear(x, fc1_weight, fc1_bias)), fc2_weight, fc2_bias)
""",
    "block": """
from torch.nn import functional
from torch.nn.functional import gelu, layer_norm, linear


def block(
    x, attn_ln_weight, attn_ln_bias, q_weight, q_bias, k_weight, v_weight, v_bias, out_weight,
    out_bias, mlp_ln_weight, mlp_ln_bias, fc1_weight, fc1_bias, fc2_weight, fc2_bias, n_head,
):
    def split(y):  # (B, T, S) -> (B, H, T, D)
        return y.unflatten(-1, (n_head, -1)).transpose(1, 2)

    size = attn_ln_weight.shape
    normed = layer_norm(x, size, attn_ln_weight, attn_ln_bias)
    q, k, v = linear(normed, q_weight, q_bias), linear(normed, k_weight), linear(
        normed, v_weight, v_bias)
    context = functional.scaled_dot_product_attention(split(q), split(k), split(v))
    x = x + linear(context.transpose(1, 2).flatten(2), out_weight, out_bias)
    normed = layer_norm(x, size, mlp_ln_weight, mlp_ln_bias)
    return x + linear(gelu(linear(normed, fc1_weight, fc1_bias)), fc2_weight, fc2_bias)
""",
}


def template(slot: str) -> str:
    """The text of a file that passes its proof."""
    from .base import SLOTS

    s = SLOTS[slot]
    wrapped = [
        "\n".join(textwrap.wrap(t, 96, subsequent_indent="    "))
        for t in (s.call, s.shapes, s.meaning)
    ]
    head = HEAD.format(slot=slot, call=wrapped[0], shapes=wrapped[1], meaning=wrapped[2])
    return head + BODIES[slot]
