"""Correct ports of the front end and the encoder that sum in a different order."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import melfront
from melfront import variants
from melfront.conventions import Convention
from melfront.encoder import WhisperEncoder, ops
from tests.encoder.peers import theirs

Port = Callable[[np.ndarray, int, int], np.ndarray]  # clip, length padded to, n_mels -> (M, F)

HANN = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)).astype(np.float32)


@lru_cache
def bank(n_mels: int) -> np.ndarray:
    return melfront.mel_filters(n_mels).astype(np.float32)


def padded(x: np.ndarray, length: int) -> np.ndarray:
    return np.pad(x, (0, length - len(x)))


def framed(x: np.ndarray, length: int) -> np.ndarray:
    """(F, 400), windowed."""
    wide = np.pad(padded(x, length), 200, mode="reflect")
    return np.lib.stride_tricks.sliding_window_view(wide, 400)[::160][:-1] * HANN


def finish(power: np.ndarray) -> np.ndarray:
    """Mel power (M, F) to features, in float32."""
    x = np.log10(np.maximum(power, np.float32(1e-10)))
    x = np.maximum(x, x.max() - np.float32(8))
    return ((x + np.float32(4)) / np.float32(4)).astype(np.float32)


def ours_numpy(x: np.ndarray, length: int, n_mels: int) -> np.ndarray:
    return melfront.log_mel(x, n_mels=n_mels, pad_to=length / 16_000)


def ours_torch(x: np.ndarray, length: int, n_mels: int) -> np.ndarray:
    return melfront.log_mel(torch.from_numpy(x), n_mels=n_mels, pad_to=length / 16_000).numpy()


@lru_cache
def extractor(n_mels: int):
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=n_mels)


def transformers_torch(x: np.ndarray, length: int, n_mels: int) -> np.ndarray:
    return extractor(n_mels)._torch_extract_fbank_features(padded(x, length)[None])[0]


def transformers_numpy(x: np.ndarray, length: int, n_mels: int) -> np.ndarray:
    return extractor(n_mels)._np_extract_fbank_features(padded(x, length)[None], "cpu")[0]


def einsum(x: np.ndarray, length: int, n_mels: int) -> np.ndarray:
    """NumPy in float32, with each filter summed by einsum."""
    s = np.fft.rfft(framed(x, length)).astype(np.complex64)
    power = s.real * s.real + s.imag * s.imag
    return finish(np.einsum("mk,fk->mf", bank(n_mels), power, optimize=False))


def magnitude_squared(x: np.ndarray, length: int, n_mels: int) -> np.ndarray:
    """Square the magnitude, and transpose the matrix product."""
    s = np.fft.rfft(framed(x, length)).astype(np.complex64)
    return finish((np.abs(s) ** 2 @ bank(n_mels).T).T)


def natural_log(x: np.ndarray, length: int, n_mels: int) -> np.ndarray:
    """torch.stft, ln(x) / ln(10), and x / 4 + 1."""
    clip, window = torch.from_numpy(padded(x, length)), torch.from_numpy(HANN)
    s = torch.stft(clip, 400, 160, window=window, return_complex=True)
    power = torch.view_as_real(s[:, :-1]).square().sum(-1)
    y = (torch.from_numpy(bank(n_mels)) @ power).clamp(min=1e-10).log() * (1 / math.log(10))
    return (torch.maximum(y, y.max() - 8) * 0.25 + 1).numpy()


def librosa_stft(x: np.ndarray, length: int, n_mels: int) -> np.ndarray:
    import librosa

    s = librosa.stft(padded(x, length), n_fft=400, hop_length=160, pad_mode="reflect")
    return finish(librosa.filters.mel(sr=16_000, n_fft=400, n_mels=n_mels) @ np.abs(s[:, :-1]) ** 2)


def librosa_melspectrogram(x: np.ndarray, length: int, n_mels: int) -> np.ndarray:
    import librosa

    power = librosa.feature.melspectrogram(
        y=padded(x, length), sr=16_000, n_fft=400, hop_length=160, n_mels=n_mels, pad_mode="reflect"
    )
    return finish(power[:, :-1])


FRONT_ENDS: dict[str, Port] = {
    f.__name__: f
    for f in (
        ours_numpy,
        ours_torch,
        transformers_torch,
        transformers_numpy,
        einsum,
        magnitude_squared,
        natural_log,
        librosa_stft,
        librosa_melspectrogram,
    )
}


def matrix_dft(x: np.ndarray, length: int, n_mels: int) -> np.ndarray:
    """The DFT as a matrix product in float32: correct, but noisier than an FFT."""
    angle = 2 * np.pi * (np.outer(np.arange(400), np.arange(201)) % 400) / 400
    frames = framed(x, length)
    power = (frames @ np.cos(angle).astype("f4")) ** 2 + (frames @ np.sin(angle).astype("f4")) ** 2
    return finish(bank(n_mels) @ power.T)


# --- encoders -------------------------------------------------------------------------------------

Encoder = Callable[[WhisperEncoder, Tensor], Tensor]  # model, mel (B, M, F) -> (B, T, S)


def blocked_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Sum over the channels in pieces of 7, like a kernel with small tiles."""
    y = sum(a @ b.T for a, b in zip(x.split(7, -1), weight.split(7, -1), strict=True))
    return y if bias is None else y + bias


def permuted_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Sum over the channels in a permuted order."""
    order = torch.randperm(x.shape[-1], generator=torch.Generator().manual_seed(3))
    return functional.linear(x[..., order], weight[:, order], bias)


def einsum_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y = torch.einsum("...s,os->...o", x, weight)
    return y if bias is None else y + bias


def matrix_conv1d(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """The convolution as one matrix product (im2col)."""
    columns = functional.pad(x, (1, 1)).unfold(-1, 3, stride)  # (B, C, T, 3)
    columns = columns.permute(0, 2, 1, 3).flatten(2)
    return (columns @ weight.flatten(1).T + bias).transpose(1, 2)


def plain_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps) * weight + bias


def with_ops(**functions: Callable[..., object]) -> Encoder:
    def run(model: WhisperEncoder, mel: Tensor) -> Tensor:
        with ops.using(**functions), torch.no_grad():
            return model(mel).last_hidden_state

    return run


def transformers(attention: str) -> Encoder:
    def run(model: WhisperEncoder, mel: Tensor) -> Tensor:
        with torch.no_grad():
            return theirs(model, attention)(mel).last_hidden_state

    return run


ENCODERS: dict[str, Encoder] = {
    "ours": with_ops(),
    "blocked": with_ops(linear=blocked_linear),
    "permuted": with_ops(linear=permuted_linear),
    "einsum": with_ops(linear=einsum_linear),
    "im2col": with_ops(conv1d=matrix_conv1d),
    "plain": with_ops(layer_norm=plain_norm, attention=ops.explicit_attention),
    "all": with_ops(
        linear=permuted_linear,
        conv1d=matrix_conv1d,
        layer_norm=plain_norm,
        attention=ops.explicit_attention,
    ),
    "eager": transformers("eager"),
    "sdpa": transformers("sdpa"),
}


def in_type(model: WhisperEncoder, dtype: str) -> WhisperEncoder:
    kind = getattr(torch, dtype)
    weights = {name: w.to(kind) for name, w in model.state_dict().items()}
    return WhisperEncoder.from_weights(model.config, weights)


# --- wrong ports ----------------------------------------------------------------------------------


def as_float32(stages: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert stages to the dtypes of a float32 port: complex64 for the spectrum, else float32."""
    return {
        name: x.astype(np.complex64 if np.iscomplexobj(x) else np.float32)
        for name, x in stages.items()
    }


def front_end_dump(
    audio: object, convention: Convention, n_mels: int = 80, pad_to: float | None = None
) -> dict[str, np.ndarray]:
    """Every stage of a front end with this convention, as float32."""
    return as_float32(variants.trace(audio, n_mels=n_mels, convention=convention, pad_to=pad_to))
