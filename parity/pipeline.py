"""The truth of every stage for a clip and a model, and how much noise a right port has.

The truth is the float64 oracle's. The noise is what transformers' own computation makes of it in
the type at hand: for its features by our torch path, which is the same computation, and for stages
that transformers does not show by its steps written out here, and by our model.

    # N n_fft  F frames  K frequencies  M mel bins
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped]  # as in encoder/__main__.py

import melfront
from encoder import CheckpointError, WhisperEncoder
from encoder import oracle as encoder_oracle
from melfront import oracle
from melfront.audio import Clips, as_clips, digest, fit_length
from melfront.command import PROGRESS
from melfront.conventions import (
    CHUNK_LENGTH,
    HOP_LENGTH,
    N_FFT,
    SAMPLE_RATE,
    TRANSFORMERS,
    Convention,
)

from . import noise as measure
from . import stages
from .files.tensors import Array, ParityError

MAX_SECONDS = 3600  # that a clip is padded to: some GB in float64


class Stop(Exception):
    """Raised by a tap that has seen all it wants."""


@dataclass
class Subject:
    """What is compared: the clip or batch, the model, and whose features.

    audio is what `melfront.log_mel` takes; model may be None while only the front end counts.
    """

    audio: Any
    model: WhisperEncoder | None = None
    n_mels: int = 128
    convention: Convention = TRANSFORMERS
    pad_to: float | None = CHUNK_LENGTH
    clip_name: str = "sample"
    model_name: str = ""
    layers: int | None = None  # how many blocks a model has that is not here
    check_range: bool = True  # as of `melfront.log_mel`
    bins_told: bool = True  # or is n_mels the default, of no use for the stages compared?
    _floors: dict[tuple[str, str], float] = field(default_factory=dict, repr=False)

    @cached_property
    def given(self) -> Clips:
        return as_clips(self.audio, check_range=self.check_range).numpy()

    @cached_property
    def clips(self) -> Clips:
        return self.given.cut(fit_length(self.given, self.pad_to, truncate=True))

    @cached_property
    def length(self) -> int:
        return fit_length(self.clips, self.pad_to, truncate=True)

    @property
    def n_layer(self) -> int | None:
        return self.model.config.n_audio_layer if self.model else self.layers

    @property
    def n_audio(self) -> int:
        """How many positions hold audio: half the frames, rounded up."""
        longest = max(len(clip) for clip in self.clips.arrays)
        return -(-longest // (2 * HOP_LENGTH))

    @cached_property
    def clip_digest(self) -> str:
        return digest(*self.clips.arrays)

    def front_end(
        self, convention: Convention | None = None, upto: str = "features"
    ) -> dict[str, Array]:
        """Every front-end stage up to one, float64, under this or another convention."""
        seen: dict[str, Array] = {}

        def keep(stage: str, tensor: Array) -> Array:
            seen[stage] = tensor
            if stage == upto:
                raise Stop
            return tensor

        with suppress(Stop):
            oracle.run(self.clips, self.length, self.n_mels, convention or self.convention, keep)
        return seen

    @cached_property
    def front_end_truth(self) -> dict[str, Array]:
        return self.front_end()

    def encoder_truth(self, wanted: Iterable[str], upto: str = "ln_post") -> dict[str, Array]:
        """These encoder stages from the float64 oracle, one clip (T, S) or a batch (B, T, S)."""
        wanted = set(wanted)
        features = self.front_end_truth["features"]
        batch = features if self.clips.batched else features[None]
        results = [self._encode(item, wanted, upto) for item in batch]
        if not self.clips.batched:
            return results[0]
        return {name: np.stack([r[name] for r in results]) for name in results[0]}

    def _encode(self, mel: Array, wanted: set[str], upto: str) -> dict[str, Array]:
        model = self.needed_model()
        seen: dict[str, Array] = {}

        def keep(stage: str, tensor: Array) -> Array:
            if stage in wanted:
                seen[stage] = tensor
            if stage == upto:
                raise Stop
            return tensor

        with suppress(Stop), self.progress("float64", keep) as seeing:
            encoder_oracle.encode(mel, model.state_dict(), model.config, seeing)
        return seen

    @contextmanager
    def progress(self, what: str, tap: Any) -> Iterator[Any]:
        """The tap, with a bar of the encoder's stages for who waits at a terminal."""
        names = stages.encoder_names(self.n_layer or 0)
        with tqdm(total=len(names), desc=what, unit="stage", **PROGRESS) as bar:

            def passed(stage: str, tensor: Any) -> Any:
                bar.update(stage in names)
                return tap(stage, tensor)

            yield passed

    def run(self, tap: Any, encoder: bool) -> None:
        """The whole float64 pipeline of one clip, with a tap that may put in other tensors."""
        features = oracle.run(self.clips, self.length, self.n_mels, self.convention, tap)
        if encoder:
            model = self.needed_model()
            with self.progress("float64", tap) as seeing:
                encoder_oracle.encode(features, model.state_dict(), model.config, seeing)

    def describe(self) -> str:
        model = f", model {self.model_name}" if self.model else ""
        clip = f"clip {self.clip_name}"
        if self.audio is not None and max(map(len, self.given.arrays)) > self.length:
            seconds = f"{self.length / SAMPLE_RATE:g} s"
            batched = self.clips.batched
            clip += f", the first {seconds} of each" if batched else f", its first {seconds}"
        bins = f", {self.n_mels} bins" if self.bins_told else ""
        return f"{clip}{bins}, convention {self.convention.name}{model}"

    def needed_model(self) -> WhisperEncoder:
        if self.model is None:
            raise ParityError("encoder stages need the model that made them: pass --model")
        return self.model

    def floors(
        self,
        truth: dict[str, Array],
        dtype: str,
        view: Callable[[str, Array], Array] = lambda _, tensor: tensor,
    ) -> dict[str, float]:
        """rms noise of a right implementation in this type, for these stages of the truth.

        `view(stage, tensor)` is what the truth holds of a stage; what has another shape is left
        out.
        """
        missing = {name for name in truth if (name, dtype) not in self._floors}

        def weigh(stage: str, tensor: Array) -> Array:
            if stage in missing and (seen := view(stage, tensor)).shape == truth[stage].shape:
                self._floors[stage, dtype] = measure.noise_floor(truth[stage], seen, dtype)
            return tensor

        if missing:
            encoder = bool(missing - set(stages.front_end_names()))
            self.run_right_port(weigh, encoder, "float32" if dtype == "float64" else dtype)
        return {name: self._floors[name, dtype] for name in truth if (name, dtype) in self._floors}

    def right_port(self, wanted: Iterable[str], dtype: str) -> dict[str, Array]:
        """These stages as a right implementation has them in this type."""
        wanted = set(wanted)
        seen: dict[str, Array] = {}

        def keep(stage: str, tensor: Array) -> Array:
            if stage in wanted:
                seen[stage] = tensor
            return tensor

        self.run_right_port(keep, bool(wanted - set(stages.front_end_names())), dtype)
        return seen

    def run_right_port(self, tap: Any, encoder: bool, dtype: str = "float32") -> None:
        """The whole pipeline as transformers computes it in this type; the tap only looks on."""
        kind = getattr(torch, dtype)
        out = transformers_stages(self)
        for name, tensor in out.items():
            tap(name, rounded(tensor, kind).numpy())
        if not encoder:
            return
        model = self.needed_model()
        if kind != torch.float32:
            weights = {k: w.to(kind) for k, w in model.state_dict().items()}
            model = WhisperEncoder.from_weights(model.config, weights)

        def look(stage: str, tensor: torch.Tensor) -> torch.Tensor:
            values = tensor if self.clips.batched else tensor[0]
            tap(stage, values.float().numpy())
            return tensor

        with torch.no_grad(), self.progress(dtype, look) as seeing:
            model(out["features"].to(kind), tap=seeing)


def rounded(tensor: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """A real or complex tensor with its values rounded to a type, as float32 or complex64."""
    if tensor.is_complex():
        parts = torch.view_as_real(tensor).to(kind).float()
        return torch.view_as_complex(parts.contiguous())
    return tensor.to(kind).float()


def run_model(
    model: WhisperEncoder,
    mel: torch.Tensor,
    wanted: set[str],
    runner: Callable[..., Any] | None = None,
) -> dict[str, Array]:
    """These stages of the torch model, without the batch axis if mel has none, as float64.

    `runner(model, mel, tap)` stands for the model where something else is to be run.
    """
    order = stages.encoder_names(model.config.n_audio_layer)
    last = max((order.index(name) for name in wanted), default=-1)
    seen: dict[str, Array] = {}

    def keep(stage: str, tensor: torch.Tensor) -> torch.Tensor:
        if stage in wanted:
            values = tensor.detach().double().cpu().numpy()
            seen[stage] = values if mel.ndim == 3 else values[0]
        if order.index(stage) >= last:
            raise Stop
        return tensor

    with suppress(Stop), torch.no_grad():
        if runner:
            runner(model, mel if mel.ndim == 3 else mel[None], keep)
        else:
            model(mel, tap=keep)
    return seen


def transformers_stages(subject: Subject) -> dict[str, torch.Tensor]:
    """transformers' torch path, step by step in float32, with every stage kept.

    Reproduces WhisperFeatureExtractor._torch_extract_fbank_features, but for the last dropped
    frame, which is dropped at once. The features are those of `melfront.log_mel` under the
    subject's convention.
    """
    length = subject.length + subject.convention.extra_padding
    rows = [
        torch.nn.functional.pad(torch.as_tensor(clip).float(), (0, length - len(clip)))
        for clip in subject.clips.arrays
    ]
    x = torch.stack(rows)  # (B, L)
    out = {}
    half = N_FFT // 2
    x = out["padded"] = torch.nn.functional.pad(x, (half, half), mode="reflect")
    x = out["frames"] = x.unfold(-1, N_FFT, HOP_LENGTH)[:, :-1]  # (B, F, N)
    x = out["windowed"] = x * torch.hann_window(N_FFT)
    x = out["spectrum"] = torch.fft.rfft(x)  # (B, F, K)
    x = out["power"] = x.abs() ** 2
    filters = torch.from_numpy(np.array(melfront.mel_filters(subject.n_mels))).float()
    x = out["mel"] = filters @ x.mT  # (B, M, F)
    x = out["log"] = x.clamp(min=1e-10).log10()
    together = subject.convention.max_scope == "batch"
    counts = oracle.counted(subject.clips, x.shape[-1], subject.convention)
    counting = x.masked_fill(~torch.as_tensor(counts), -math.inf)
    loudest = counting.amax() if together else counting.amax((1, 2), keepdim=True)
    out["clamped"] = torch.maximum(x, loudest - 8.0)
    tensors = [torch.as_tensor(clip).float() for clip in subject.clips.arrays]
    out["features"] = melfront.log_mel(
        tensors,
        n_mels=subject.n_mels,
        convention=subject.convention,
        pad_to=subject.pad_to,
        check_range=subject.check_range,
    )
    return out if subject.clips.batched else {name: tensor[0] for name, tensor in out.items()}


def load_model(name: str, local_only: bool = False) -> WhisperEncoder:
    """The model of a --model option: a folder, a file, a Hub name, or one of `encoder.built_in`.

    local_only: a Hub name is looked up in the local cache, and the Hub is not asked.
    Raises ParityError.
    """
    try:
        return WhisperEncoder.from_pretrained(name, local_files_only=local_only)
    except (CheckpointError, OSError) as error:
        raise ParityError(str(error)) from error


def model_digest(model: WhisperEncoder) -> str:
    """SHA-256 of a few small tensors: enough to tell two checkpoints apart."""
    weights = model.state_dict()
    return digest(
        *(weights[n].float().numpy() for n in ("conv1.bias", "ln_post.weight", "ln_post.bias"))
    )
