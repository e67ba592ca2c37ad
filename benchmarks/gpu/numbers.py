"""Is it right on the device? Features and hidden states against float64, and against transformers.

# B clips  M mel bins  F frames
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import melfront
from melfront import encoder
from melfront.conventions import DYNAMIC_RANGE, HOP_LENGTH, LOG_FLOOR, N_FFT
from melfront.encoder import WhisperEncoder, checkpoint, formula
from melfront.parity.noise import rms

from ..speed.encoder import transformers
from ..speed.frontend import N_MELS, speech
from .rows import Rows

KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def formula_encoder(config: encoder.EncoderConfig, device: torch.device) -> WhisperEncoder:
    """`WhisperEncoder.from_formula`, each tensor by a core of its own: seconds, not a minute."""
    shapes = checkpoint.shapes(config)
    with ThreadPoolExecutor() as pool:
        made = zip(shapes, pool.map(formula.weight, shapes, shapes.values()), strict=True)
        weights = {name: torch.from_numpy(x).to(device) for name, x in made}
    return WhisperEncoder.from_weights(config, weights)


def cast(model: WhisperEncoder, dtype: torch.dtype) -> WhisperEncoder:
    weights = {name: x.to(dtype) for name, x in model.state_dict().items()}
    return WhisperEncoder.from_weights(model.config, weights)


def formula_of_transformers(device: torch.device) -> Callable[[Tensor], Tensor]:
    """What WhisperFeatureExtractor computes of clips of 30 s (B, N), left on the device."""
    bank = torch.from_numpy(melfront.mel_filters(N_MELS).copy()).to(device, torch.float32)
    window = torch.hann_window(N_FFT, device=device)

    def log_mel(clips: Tensor) -> Tensor:
        spectrum = torch.stft(clips, N_FFT, HOP_LENGTH, window=window, return_complex=True)
        mel = bank @ spectrum[..., :-1].abs() ** 2  # (B, M, F)
        log = mel.clamp(min=LOG_FLOOR).log10()
        return (torch.maximum(log, log.amax((1, 2), keepdim=True) - DYNAMIC_RANGE) + 4) / 4

    return log_mel


def signals() -> dict[str, np.ndarray[Any, Any]]:
    """Clips of 30 s."""
    t = np.arange(melfront.N_SAMPLES) / melfront.SAMPLE_RATE
    return {
        "speech": speech(t.size),
        "tone": np.sin(2 * np.pi * 1234.5 * t).astype(np.float32),
        "noise": np.random.default_rng(0).uniform(-1, 1, t.size).astype(np.float32),
        "silence": np.zeros(t.size, np.float32),
    }


def features(r: Rows) -> None:
    """The front end on the device against the oracle, in units of transformers' own error there."""
    formula = formula_of_transformers(r.device)
    for name, clip in signals().items():
        truth = melfront.oracle.log_mel(clip, n_mels=N_MELS)
        x = torch.from_numpy(clip).to(r.device)
        made = melfront.log_mel(x.double()), melfront.log_mel(x), formula(x[None])[0]
        exact, ours, theirs = (y.cpu().numpy() - truth for y in made)
        # Four roundings at the size of the features: what no float32 formula does better than.
        least = 4 * 2.0**-24 * rms(truth)
        r.add(
            "features",
            signal=name,
            float64_max=float(np.abs(exact).max()),
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
            theirs = states(transformers(low, attention).model, given)
            each = zip(ours, theirs, truth, strict=True)
            noise = [float((a - t).norm() / (b - t).norm()) for a, b, t in each]
            r.add(
                "states",
                model=name,
                dtype=kind,
                unit=f"transformers' {attention}",
                states=len(noise),
                worst_noise=float(np.max(noise[1:])),  # in the first there is nothing to differ in
                state=int(np.argmax(noise[1:])) + 1,
                last_noise=noise[-1],
                relative_error=float((ours[-1] - truth[-1]).norm() / truth[-1].norm()),
            )


def against_the_oracle(r: Rows, model: WhisperEncoder) -> None:
    """float64 on the device, which is the truth above, against the oracle: the first two blocks."""
    config = replace(model.config, n_audio_layer=2)
    names = checkpoint.shapes(config)
    weights = {n: x.double() for n, x in model.state_dict().items() if n in names}
    clip = melfront.oracle.log_mel(melfront.load_audio("sample"), n_mels=config.n_mels)
    truth = encoder.oracle.encode(clip, {n: x.cpu() for n, x in weights.items()}, config)
    mel = torch.from_numpy(clip)[None].to(r.device)
    ours = WhisperEncoder.from_weights(config, weights)(mel).last_hidden_state[0].cpu().numpy()
    r.add("oracle", float64_max=float(np.abs(ours - truth).max()), size=float(np.abs(truth).max()))
