"""Is it right on the device? Features and hidden states against float64, and against transformers.

# B clips  M mel bins  F frames
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import melfront
from melfront import encoder
from melfront.conventions import DYNAMIC_RANGE, HOP_LENGTH, LOG_FLOOR, N_FFT
from melfront.encoder import WhisperEncoder, checkpoint, formula

from ..speed.encoder import in_transformers
from .rows import Rows, rms

KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
N_MELS = 128


def formula_encoder(config: encoder.EncoderConfig, device: torch.device) -> WhisperEncoder:
    """`WhisperEncoder.from_formula`, each tensor by a core of its own."""

    def made(named: tuple[str, tuple[int, ...]]) -> tuple[str, Tensor]:
        return named[0], torch.from_numpy(formula.weight(*named)).to(device)

    with ThreadPoolExecutor() as pool:
        return WhisperEncoder.from_weights(
            config, dict(pool.map(made, checkpoint.shapes(config).items()))
        )


def cast(model: WhisperEncoder, dtype: torch.dtype) -> WhisperEncoder:
    weights = {name: x.to(dtype) for name, x in model.state_dict().items()}
    return WhisperEncoder.from_weights(model.config, weights)


def formula_of_transformers(bank: Tensor, window: Tensor, clips: Tensor) -> Tensor:
    """What WhisperFeatureExtractor computes of clips of 30 s (B, N), left on the device."""
    spectrum = torch.stft(clips, N_FFT, HOP_LENGTH, window=window, return_complex=True)
    mel = bank @ spectrum[..., :-1].abs() ** 2  # (B, M, F)
    log = mel.clamp(min=LOG_FLOOR).log10()
    return (torch.maximum(log, log.amax((1, 2), keepdim=True) - DYNAMIC_RANGE) + 4) / 4


def formula_on(device: torch.device, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    bank = torch.from_numpy(melfront.mel_filters(N_MELS).copy()).to(device, dtype)
    window = torch.hann_window(N_FFT, dtype=dtype, device=device)
    return partial(formula_of_transformers, bank, window)


def signals() -> dict[str, np.ndarray[Any, Any]]:
    """Clips of 30 s."""
    t = np.arange(melfront.N_SAMPLES) / melfront.SAMPLE_RATE
    return {
        "speech": thirty_seconds_of_speech(),
        "tone": np.sin(2 * np.pi * 1234.5 * t).astype(np.float32),
        "noise": np.random.default_rng(0).uniform(-1, 1, t.size).astype(np.float32),
        "silence": np.zeros(t.size, np.float32),
    }


def thirty_seconds_of_speech() -> np.ndarray[Any, Any]:
    clip = melfront.load_audio("sample")
    return np.resize(clip, melfront.N_SAMPLES).astype(np.float32)


def features(r: Rows) -> None:
    """The front end on the device against the oracle, in units of transformers' own error there."""
    for name, clip in signals().items():
        truth = torch.from_numpy(melfront.oracle.log_mel(clip, n_mels=N_MELS))
        x = torch.from_numpy(clip).to(r.device)
        exact = melfront.log_mel(x.double()).cpu() - truth
        ours = melfront.log_mel(x).cpu() - truth
        theirs = formula_on(r.device, torch.float32)(x[None])[0].cpu() - truth
        # Four roundings at the size of the features: what no float32 formula does better than.
        least = 4 * 2.0**-24 * rms(truth)
        r.add(
            "features",
            signal=name,
            float64_max=float(exact.abs().max()),
            rms=rms(ours),
            transformers_rms=rms(theirs),
            noise=rms(ours) / max(rms(theirs), least),
        )


def hidden_states(r: Rows, name: str, model: WhisperEncoder) -> None:
    """All hidden states against float64 on the device, in units of transformers' own error."""
    clip = melfront.log_mel(melfront.load_audio("sample"), n_mels=model.config.n_mels)
    mel = torch.from_numpy(clip)[None].to(r.device)  # (1, M, F)

    def states(model: Any, mel: Tensor) -> list[Tensor]:
        return [x.double() for x in model(mel, output_hidden_states=True).hidden_states]

    for kind, dtype in KINDS.items():
        if dtype == torch.float16 and not r.on_gpu:
            continue  # torch computes it on few CPUs, and on those for minutes
        low, given = cast(model, dtype), mel.to(dtype)
        # The truth of the weights and features as they are in this type.
        truth = states(cast(low, torch.float64), given.double())
        ours = states(low, given)
        for attention in ("sdpa", "eager"):
            theirs = states(in_transformers(low, attention), given)
            noise = [rms(a - t) / rms(b - t) for a, b, t in zip(ours, theirs, truth, strict=True)]
            r.add(
                "states",
                model=name,
                dtype=kind,
                unit=f"transformers' {attention}",
                states=len(noise),
                worst_noise=max(noise[1:]),  # the first is positions added: nothing to differ in
                state=int(np.argmax(noise[1:])) + 1,
                last_noise=noise[-1],
                relative_error=rms(ours[-1] - truth[-1]) / rms(truth[-1]),
            )


def trained_states(r: Rows, path: str) -> None:
    model = WhisperEncoder.from_pretrained(path, device=r.device)
    hidden_states(r, Path(path).name, model)


def against_the_oracle(r: Rows, model: WhisperEncoder) -> None:
    """float64 on the device, which is the truth above, against the oracle: the first two blocks."""
    config = replace(model.config, n_audio_layer=2)
    names = checkpoint.shapes(config)
    weights = {n: x.double() for n, x in model.state_dict().items() if n in names}
    clip = melfront.oracle.log_mel(melfront.load_audio("sample"), n_mels=config.n_mels)
    truth = encoder.oracle.encode(clip, {n: x.cpu().numpy() for n, x in weights.items()}, config)
    mel = torch.from_numpy(clip)[None].to(r.device)
    ours = WhisperEncoder.from_weights(config, weights)(mel).last_hidden_state[0].cpu().numpy()
    r.add("oracle", float64_max=float(np.abs(ours - truth).max()), size=float(np.abs(truth).max()))
