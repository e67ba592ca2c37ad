"""Weights from a formula: an encoder of any size without a download, the same bits in any language.

They let a port be checked before it can read a checkpoint. Like trained weights and unlike random
ones, they have large biases, outlier channels, and scales that differ from tensor to tensor: a port
that forgets a bias or an eps would still look right on small numbers.

Element i (in C order) of the tensor with the Hugging Face name `name`, without its prefix
"model.encoder.", is computed in 64-bit unsigned integers that wrap around:

    seed = FNV-1a of the name's bytes:          h = 0xcbf29ce484222325
                                                h = (h ^ byte) * 0x100000001b3, byte by byte
    z    = seed + (i + 1) * 0x9e3779b97f4a7c15  (splitmix64)
    z    = (z ^ z >> 30) * 0xbf58476d1ce4e5b9
    z    = (z ^ z >> 27) * 0x94d049bb133111eb
    z    = z ^ z >> 31
    a, b, c, d = the four 16-bit words of z, lowest first
    s    = 2 (a + b + c) - 196605               mean 0, standard deviation 2^16, nearly normal
    s    = 8 s  if d < 1024                     one in 64 is an outlier
    w    = float32((mean << 28) + s * scale) / 2^32         one rounding, int64 to float32

`mean` and `std` are in sixteenths, from the row of the table STATISTICS with the longest ending of
the name. For a vector, scale = std << 12. For a matrix it is floor(sqrt(std^2 * 2^24 / fan_in)),
where fan_in is the product of all axes but the first.

The only exception is embed_positions.weight: `sinusoids`, rounded to multiples of 2^-12, on which
every libm agrees.
"""

from __future__ import annotations

from math import isqrt, prod

import numpy as np
import torch
from numpy.typing import NDArray

from . import checkpoint
from .config import EncoderConfig

# (mean, std) in sixteenths, by the ending of the tensor's name; modelled on whisper-tiny.en.
STATISTICS = {
    "conv1.weight": (0, 12),
    "conv2.weight": (0, 14),
    "conv1.bias": (-6, 12),
    "conv2.bias": (-8, 14),
    "q_proj.weight": (0, 14),
    "k_proj.weight": (0, 14),
    "v_proj.weight": (0, 8),
    "out_proj.weight": (0, 8),
    "q_proj.bias": (0, 8),
    "v_proj.bias": (0, 2),
    "out_proj.bias": (0, 6),
    "fc1.weight": (0, 8),
    "fc2.weight": (0, 12),
    "fc1.bias": (-24, 10),
    "fc2.bias": (0, 6),
    "self_attn_layer_norm.weight": (26, 8),
    "final_layer_norm.weight": (30, 8),
    "layer_norm.weight": (20, 4),
    "layer_norm.bias": (0, 10),
}
OUTLIER = 1024  # of 65536
BLOCK = 1 << 16  # elements computed at a time, so that the integers stay in cache


def seed(name: str) -> int:
    """64-bit FNV-1a of the name's UTF-8 bytes."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def mix(start: int, count: int, seed: int) -> NDArray[np.uint64]:
    """Elements start .. start + count - 1 of the splitmix64 sequence of a seed, (count,) uint64."""
    z = np.arange(start + 1, start + count + 1, dtype=np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(seed)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def sinusoids(n_positions: int, state: int) -> NDArray[np.float64]:
    """The position table as OpenAI's `sinusoids` defines it, in float64: (n_positions, state).

    Column j < state / 2 is the sine of position / 10000^(j / (state / 2 - 1)), column state / 2 + j
    its cosine. The fastest has a period of 6.3 positions, the slowest one 10,000 times that.
    """
    half = state // 2
    period = 10_000.0 ** (np.arange(half) / (half - 1))
    angle = np.arange(n_positions)[:, None] / period
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def hf_weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The tensor with this Hugging Face name (without "model.encoder.") and shape, float32."""
    if name == "embed_positions.weight":
        n_positions, state = shape
        return (np.round(sinusoids(n_positions, state) * 2**12) / 2**12).astype(np.float32)
    ending = max((e for e in STATISTICS if name.endswith(e)), key=len)
    mean, std = STATISTICS[ending]
    scale = std << 12 if len(shape) == 1 else isqrt((std * std << 24) // prod(shape[1:]))
    out = np.empty(prod(shape), dtype=np.float32)
    for start in range(0, len(out), BLOCK):
        z = mix(start, min(BLOCK, len(out) - start), seed(name))
        words = z.astype("<u8").view("<u2").reshape(-1, 4)
        s = 2 * words[:, :3].sum(axis=1, dtype=np.int64) - 196_605
        s[words[:, 3] < OUTLIER] *= 8
        out[start : start + len(s)] = (mean << 28) + s * scale
    out *= np.float32(2.0**-32)
    return out.reshape(shape)


def weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The tensor with this name of ours (`checkpoint.shapes`) and shape, float32."""
    return hf_weight(checkpoint.hf_name(name), shape)


def weights(
    config: EncoderConfig, dtype: torch.dtype, device: str | torch.device
) -> dict[str, torch.Tensor]:
    """Every weight of an encoder of these dimensions by our name, as `checkpoint.load` returns."""
    return {
        name: torch.from_numpy(weight(name, shape)).to(device, dtype)
        for name, shape in checkpoint.shapes(config).items()
    }
