"""transformers' WhisperFeatureExtractor on our front end: the same call and results, faster.

# B clips  N samples of a clip  L samples after padding  M mel bins  F frames = L // 160
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import numpy as np
import torch
from torch.nn import functional

try:
    import transformers
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise ImportError(
        "melfront.WhisperFeatureExtractor needs transformers: pip install 'melfront[transformers]'"
    ) from None
from transformers.models.whisper.feature_extraction_whisper import logger  # obeys their verbosity
from transformers.utils import PaddingStrategy

from . import log_mel
from .audio import AudioError, check_rate, is_tensor
from .backends import torch_backend
from .backends.front_end import FRONT_END, OURS
from .conventions import HOP_LENGTH, N_FFT, SAMPLE_RATE
from .filterbank import mel_filters

__all__ = ["WhisperFeatureExtractor"]


class WhisperFeatureExtractor(transformers.WhisperFeatureExtractor):
    """transformers' feature extractor, computed by `melfront.log_mel`.

    It takes the arguments of transformers' class and is loaded, saved and called as that is. What
    it saves, transformers loads as its own. What differs:

    - The features of arrays are computed in float64, and so are nearer to the truth.
    - A tensor (N,) or (B, N) and a list of tensors (N,) are clips too, on any device. With
      return_tensors="pt" the features stay on the device of the tensors, or on that named by
      `device`; transformers copies them to the host.
    - An attention mask always has one entry per frame, (B, F). transformers' has one per sample,
      (B, L), unless the call itself said return_attention_mask=True.
      `extractor.masks_as_transformers = True`, also an argument of the constructor, gives that.

    Any feature_size, chunk_length, padding_value and dither are computed here. transformers' code
    computes other settings (sampling_rate, n_fft, hop_length, padding_side, mel_filters), and takes
    or refuses audio with NaN or infinity, without samples, or too short to mirror its edges. Within
    `melfront.using` such a call is a ValueError, for the kernel would go unused.

    Returns a BatchFeature: input_features (B, M, F) float32 and, where asked for, attention_mask
    int32. Raises what transformers' raises. Reproduces transformers' WhisperFeatureExtractor.
    """

    masks_as_transformers = False

    @wraps(transformers.WhisperFeatureExtractor.__call__)
    def __call__(self, raw_speech: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._by_log_mel(raw_speech, *args, **kwargs)
        except AudioError as error:
            if FRONT_END.current() is not OURS:
                raise ValueError(
                    f"{error}. Outside melfront.using, transformers' code has its say on such a "
                    "call; it would not use your kernel"
                ) from None
        out = super().__call__(on_host(raw_speech), *args, **kwargs)
        per_frame = "attention_mask" not in out or self.masks_as_transformers
        if not per_frame and out["attention_mask"].shape[1] != out["input_features"].shape[-1]:
            mask, hop = out["attention_mask"], self.hop_length  # (B, L)
            out["attention_mask"] = mask[:, : mask.shape[1] // hop * hop : hop]  # (B, F)
        return out

    def _by_log_mel(
        self,
        raw_speech: Any,
        truncation: bool = True,
        pad_to_multiple_of: int | None = None,
        return_tensors: Any = None,
        return_attention_mask: bool | None = None,
        padding: Any = "max_length",
        max_length: int | None = None,
        sampling_rate: int | None = None,
        do_normalize: bool | None = None,
        device: Any = "cpu",
        **kwargs: Any,
    ) -> Any:
        """Raises AudioError for what `log_mel` does not compute: transformers then has its say."""
        self._check_settings()
        check_rate(sampling_rate)
        clips = clips_on(raw_speech, device, bool(do_normalize))
        clips, length = self._cut(clips, truncation, pad_to_multiple_of, padding, max_length)
        lengths = [len(clip) for clip in clips]
        if do_normalize and is_tensor(clips[0]):
            clips = [functional.layer_norm(clip, clip.shape, eps=1e-7) for clip in clips]
        elif do_normalize:
            clips = self.zero_mean_unit_var_norm(clips, None)
        if self.dither or self.padding_value:
            clips = padded(clips, length, self.padding_value or 0, self.dither)
        n_mels, seconds = self.mel_filters.shape[1], length / SAMPLE_RATE
        features = log_mel(clips, n_mels=n_mels, pad_to=seconds, check_range=False)  # (B, M, F)

        if sampling_rate is None:
            logger.warning(
                f"{type(self).__name__} was not told the sampling rate of its audio, so audio that "
                f"is not at {self.sampling_rate} Hz goes unnoticed; pass sampling_rate=..."
            )
        data = {"input_features": features}
        asked = return_attention_mask or do_normalize
        if self.return_attention_mask if asked is None else asked:
            step = 1 if self.masks_as_transformers and not return_attention_mask else HOP_LENGTH
            mask = np.arange(length // step) * step < np.array(lengths)[:, None]  # (B, F)
            data["attention_mask"] = mask.astype(np.int32)
        if is_tensor(features):
            for name, values in data.items():
                kept = return_tensors == "pt"
                data[name] = as_tensor(values, features.device) if kept else on_host(values)
        return transformers.BatchFeature(data, tensor_type=return_tensors)

    def _check_settings(self) -> None:
        # Attributes can be changed at any time. The filters of two libraries differ by 1e-16.
        bank = self.mel_filters  # (K, M)
        settings = (self.sampling_rate, self.n_fft, self.hop_length, self.padding_side)
        if settings != (SAMPLE_RATE, N_FFT, HOP_LENGTH, "right") or not (
            np.abs(bank - mel_filters(bank.shape[1]).T).max() <= 1e-9
        ):
            raise AudioError("settings that are not Whisper's")

    def _cut(
        self, clips: list[Any], truncation: bool, multiple: int | None, padding: Any, most: Any
    ) -> tuple[list[Any], int]:
        """The clips, cut if asked for, and L, for which transformers' `pad` has the rules."""
        if not all(clip.ndim == 1 for clip in clips):
            raise AudioError("not clips (N,)")

        def rounded_up(n: int) -> int:
            return n if multiple is None else -(-n // multiple) * multiple

        limit = rounded_up(most or self.n_samples)
        strategy = self._get_padding_strategies(padding, limit)
        clips = [clip[:limit] for clip in clips] if truncation else clips
        lengths = [len(clip) for clip in clips]
        if strategy == PaddingStrategy.LONGEST:
            limit = rounded_up(max(lengths))
        if strategy != PaddingStrategy.DO_NOT_PAD:
            lengths = [max(n, limit) for n in lengths]
        if len(set(lengths)) != 1:
            raise AudioError("clips of unlike lengths, not padded to one")
        return clips, lengths[0]


def clips_on(raw_speech: Any, device: Any, normalized: bool) -> list[Any]:
    """The clips as float32: arrays, or tensors if `device` or the device of one is not the CPU.

    normalized: they will be; transformers adds up a single array of integers as it is, in float64.
    """
    if isinstance(raw_speech, (list, tuple)):
        batched = isinstance(raw_speech[0], (np.ndarray, list, tuple, torch.Tensor))
    else:
        batched = getattr(raw_speech, "ndim", 1) > 1
    place = torch.device("cpu" if device is None else device)
    as_it_is = normalized and not batched and isinstance(raw_speech, np.ndarray)
    if as_it_is and raw_speech.dtype.kind in "iu" and torch_backend.on_cpu(place):
        return [raw_speech]
    clips: list[Any] = [
        clip.float() if is_tensor(clip) else np.asarray(clip, dtype=np.float32)
        for clip in (raw_speech if batched else [raw_speech])
    ]
    devices = [place, *(clip.device for clip in clips if is_tensor(clip))]
    away = [device for device in devices if not torch_backend.on_cpu(device)]
    return [as_tensor(clip, away[0]) if away else on_host(clip) for clip in clips]


def padded(clips: list[Any], length: int, value: float, dither: float) -> list[Any]:
    """The clips (L,), with this value after them and with transformers' noise on all of it."""
    device = clips[0].device if is_tensor(clips[0]) else "cpu"
    shape = (len(clips), length)
    x = torch.full(shape, value, dtype=torch.float32, device=device)  # (B, L)
    for row, clip in zip(x, clips, strict=True):
        row[: len(clip)] = as_tensor(clip, device)
    if dither:
        x += dither * torch.randn(shape, dtype=torch.float32, device=device)
    return list(x)


def as_tensor(values: Any, device: Any) -> torch.Tensor:
    return values.to(device) if is_tensor(values) else torch.tensor(values, device=device)


def on_host(values: Any) -> Any:
    """A tensor, or each tensor of a list, as an array."""
    if isinstance(values, (list, tuple)):
        return [on_host(v) if is_tensor(v) else v for v in values]
    return values.cpu().numpy() if is_tensor(values) else values
